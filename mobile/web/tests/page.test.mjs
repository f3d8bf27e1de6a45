// The built page, as a person uses it: one story, in order.
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { crc32 } from 'node:zlib';
import { launch, serve } from './browser.mjs';
import { DATA, modules, OUT, ROOT } from './modules.mjs';

const DIST = join(ROOT, 'dist');
// A copy, as one test makes another version of it.
const SITE = join(OUT, 'site');
const SCREENS = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } };
// LiteRT asks for a graphics card, which is none of its needs here.
const HARMLESS = [/^No available adapters\.$/, /^Failed to create default WebGPU device: Error: No GPU adapter found\./];
const picture = (name) => join(DATA, name);
const written = (name, data) => {
  writeFileSync(join(OUT, name), data);
  return join(OUT, name);
};
const complaints = [];
const strangers = [];
let server;
let browser;
let context;
let page;
let own;

function watch(one) {
  one.on('console', (message) => {
    const text = message.text();
    if (['error', 'warning'].includes(message.type()) && !HARMLESS.some((some) => some.test(text))) complaints.push(text);
  });
  one.on('pageerror', (error) => complaints.push(String(error)));
  one.on('request', (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== server.origin && protocol !== 'blob:') strangers.push(request.url());
  });
}

const said = (id) => page.locator(`#${id}`).textContent();
const shows = (id, text) =>
  page.waitForFunction(([at, wanted]) => document.getElementById(at).textContent === wanted, [id, text], { timeout: 15_000 });
const answers = (text) => shows('answer', text);
const rest = () => page.waitForFunction(() => document.getElementById('main').ariaBusy === 'false');
const ready = async () => {
  await rest();
  await answers('Ready');
};

async function open() {
  await page.goto(server.address);
  await ready();
}

/** Drops files on the page, as from a folder. */
async function drop(...paths) {
  const files = paths.map((path) => [basename(path), [...readFileSync(path)]]);
  await page.evaluate((named) => {
    const transfer = new DataTransfer();
    for (const [name, data] of named) transfer.items.add(new File([new Uint8Array(data)], name));
    const event = new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.getElementById('view').dispatchEvent(event);
  }, files);
  await rest();
}

async function nameIt(name) {
  await page.fill('#name', name);
  await page.press('#name', 'Enter');
  await rest();
  assert.equal(await page.inputValue('#name'), '');
}

before(async () => {
  assert.ok(existsSync(join(DIST, 'index.html')), 'expected dist: npm run build');
  mkdirSync(OUT, { recursive: true });
  const folder = await modules('page', 'gallery-file', 'facts');
  own = { ...(await import(`${folder}/gallery-file.mjs`)), ...(await import(`${folder}/facts.mjs`)) };
  rmSync(SITE, { recursive: true, force: true });
  cpSync(DIST, SITE, { recursive: true });
  server = await serve(SITE);
  browser = await launch();
  context = await browser.newContext({ permissions: ['camera'], viewport: SCREENS.desktop });
  // What moved without a person's doing.
  await context.addInitScript(() => {
    window.moved = 0;
    const add = (list) => {
      for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
    };
    new PerformanceObserver(add).observe({ type: 'layout-shift', buffered: true });
  });
  page = await context.newPage();
  watch(page);
  await open();
});

after(async () => {
  await browser?.close();
  await server?.stop().catch(() => {});
});

test('a model and a gallery come with it', async () => {
  assert.equal(await said('count'), '40 names, 240 pictures');
  assert.equal(await said('shown'), '0.55');
  assert.equal(await said('about'), 'Model 019d08a0: pictures of 64 × 64 pixels, 256 numbers each.');
});

const ANT = join(ROOT, '../../keras_featx/assets/emoji_mini/test/ant/noto.png');

test('a picture of the gallery is recognised', { skip: existsSync(ANT) ? false : 'it lies in the repository' }, async () => {
  await drop(ANT);
  await answers('ant');
  assert.equal(await page.locator('#neighbours .number').first().textContent(), '1.000');
});

test('a dropped picture is named, recognised, and known after a reload', async () => {
  await drop(picture('noise.png'));
  await answers('Nothing known');
  assert.match(await said('measure'), /^embedded in \d+\.\d ms, searched in \d+\.\d ms$/);
  assert.equal(await page.locator('#neighbours li').count(), 5);
  await nameIt('  some <b>noise</b> ü ');
  await answers('some <b>noise</b> ü');
  const first = page.locator('#neighbours li').first();
  assert.equal(await first.locator('.number').textContent(), '1.000');
  assert.equal(await first.locator('img').evaluate((image) => image.naturalWidth), 96);
  await open();
  await page.setInputFiles('#pictures', picture('noise.png'));
  await answers('some <b>noise</b> ü');
  assert.equal(await said('count'), '41 names, 241 pictures');
});

test('of several pictures each has its answer, and can be chosen and named', async () => {
  await page.setInputFiles('#pictures', [picture('noise.png'), picture('full.jpg'), picture('odd.jpg')]);
  const choices = page.locator('#strip button');
  await rest();
  assert.deepEqual(await choices.allTextContents(), ['some <b>noise</b> ü', '?', '?']);
  await choices.nth(2).click();
  assert.equal(await page.locator('#picture').getAttribute('alt'), 'odd.jpg');
  await answers('Nothing known');
  await nameIt('something odd');
  await answers('something odd');
  assert.equal(await choices.nth(2).textContent(), 'something odd');
  assert.deepEqual(
    await choices.evaluateAll((all) => all.map((one) => one.getAttribute('aria-pressed'))),
    ['false', 'false', 'true'],
  );
  assert.equal(await choices.nth(1).getAttribute('aria-label'), 'full.jpg: nothing known');
});

test('the camera is recognised, and is off when the page is hidden', async () => {
  await page.click('#camera');
  await shows('camera', 'Camera off');
  await page.waitForFunction(() => document.getElementById('video').videoWidth > 0);
  await page.waitForFunction(() => !document.getElementById('strip').children.length);
  await answers('Nothing known');
  await nameIt('a pattern');
  await answers('a pattern');
  const similarity = Number(await page.locator('#neighbours .number').first().textContent());
  assert.ok(similarity > 0.99, String(similarity));
  await page.screenshot({ path: join(OUT, 'camera.png') });
  const isLive = await page.evaluate(() => {
    const [track] = document.getElementById('video').srcObject.getTracks();
    Object.defineProperty(document, 'hidden', { value: true, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
    delete document.hidden;
    return track.readyState;
  });
  assert.equal(isLive, 'ended');
  assert.equal(await said('camera'), 'Camera on');
  assert.equal(await page.evaluate(() => document.getElementById('video').srcObject), null);
  await page.click('#camera');
  await shows('camera', 'Camera off');
  await answers('a pattern');
  await page.click('#camera');
  await shows('camera', 'Camera on');
});

test('a thing is forgotten', async () => {
  await page.click('[aria-label="Forget a pattern"]');
  await shows('told', 'a pattern is forgotten.');
  assert.equal(await said('count'), '42 names, 242 pictures');
});

test('the threshold decides who is known, and is kept', async () => {
  await drop(picture('full.jpg'));
  await answers('Nothing known');
  await page.fill('#threshold', '0');
  await page.waitForFunction(() => document.getElementById('answer').textContent !== 'Nothing known');
  assert.equal(await said('shown'), '0.00');
  await open();
  assert.equal(await said('shown'), '0.00');
  await page.fill('#threshold', '0.6');
});

test('a gallery of Python is imported once, and the export holds all of it', async () => {
  await page.setInputFiles('#import', picture('int8.kfg'));
  await shows('told', 'int8.kfg: 4 pictures added.');
  assert.equal(await said('count'), '45 names, 246 pictures');
  assert.equal(await said('shown'), '0.75');
  await page.setInputFiles('#import', picture('float16.kfg'));
  await shows('told', 'float16.kfg: 0 pictures added.');
  await drop(picture('full.jpg'));
  await answers('thing ü');
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#export')]);
  assert.equal(download.suggestedFilename(), 'gallery.kfg');
  await download.saveAs(join(OUT, 'export.kfg'));
  const file = own.readGallery(new Uint8Array(readFileSync(join(OUT, 'export.kfg'))), 'export.kfg');
  const python = own.readGallery(new Uint8Array(readFileSync(picture('float16.kfg'))), 'float16.kfg');
  assert.equal(file.names.length, 246);
  assert.equal(file.threshold, 0.75);
  assert.deepEqual(file.names.slice(-4), python.names);
  assert.deepEqual(file.halves.slice(-4 * 256), python.halves);
});

const whole = readFileSync(picture('float16.kfg'));
const flipped = Buffer.from(whole);
flipped[2000] ^= 1;
const model = readFileSync(join(ROOT, 'public/model.tflite'));

/** The model with other facts of the same length. */
function modelThat(before, then) {
  const data = Buffer.from(model);
  const start = data.lastIndexOf('{"format"');
  const end = data.indexOf('PK\x01\x02', start);
  const text = data.toString('utf8', start, end);
  assert.equal(before.length, then.length);
  assert.ok(text.includes(before));
  data.write(text.replace(before, then), start);
  const checksum = crc32(data.subarray(start, end));
  data.writeUInt32LE(checksum, data.lastIndexOf('PK\x03\x04', start) + 14);
  data.writeUInt32LE(checksum, end + 16);
  return data;
}

for (const [input, name, data, reason] of [
  ['pictures', 'text.png', 'no picture', /^text\.png: expected a picture that can be decoded$/],
  ['pictures', 'cut.jpg', readFileSync(picture('photo.jpg')).subarray(0, 2000), /^cut\.jpg: expected a picture that can be decoded$/],
  ['import', 'foreign.kfg', 'no gallery', /^foreign\.kfg: expected a gallery file, got another kind of file$/],
  ['import', 'cut.kfg', whole.subarray(0, 1000), /^cut\.kfg: expected 2,304 bytes, got 1,000$/],
  ['import', 'flipped.kfg', flipped, /^flipped\.kfg: damaged: the checksum of its contents is another$/],
  ['import', 'other.kfg', readFileSync(picture('other.kfg')), /^other\.kfg: expected a gallery of the model 019d08a0[0-9a-f]{56}, got one of (cd){32}$/],
  ['model', 'text.tflite', 'no model', /^text\.tflite: expected a \.tflite of keras-featx export$/],
  ['model', 'cubic.tflite', modelThat('"bilinear"', '"lanczos3"'), /^cubic\.tflite: expected a preprocessing of bilinear, tensorflow, without reduced_decoding, got lanczos3, tensorflow, without reduced_decoding$/],
  ['model', 'hollow.tflite', modelThat('"bilinear"', '"bilinear"').fill(0, 8, 100_000), /^hollow\.tflite: expected a model that can be opened$/],
]) {
  test(`${name} is refused with a sentence`, async () => {
    await page.setInputFiles(`#${input}`, written(name, data));
    await rest();
    assert.match(await said('trouble'), reason);
    assert.equal(await said('count'), '45 names, 246 pictures');
    await page.click('#close');
    assert.ok(await page.locator('#message').isHidden());
  });
}

test('of several pictures those that can be decoded are recognised', async () => {
  await drop(join(OUT, 'text.png'), picture('odd.jpg'), join(OUT, 'cut.jpg'));
  await answers('something odd');
  await shows(
    'trouble',
    'text.png: expected a picture that can be decoded; cut.jpg: expected a picture that can be decoded',
  );
});

test('another model has its own gallery, is kept, and can be left', async () => {
  const fingerprint = own.readFacts(model, 'model').fingerprint;
  await page.setInputFiles('#model', written('other.tflite', modelThat(fingerprint, 'cd'.repeat(32))));
  await shows('count', '0 names, 0 pictures');
  await answers('Ready');
  await drop(picture('large.png'));
  await answers('Nothing is known yet');
  await page.setInputFiles('#import', picture('other.kfg'));
  await answers('thing \uffee');
  await open();
  assert.match(await said('about'), /^Model cdcdcdcd: /);
  assert.equal(await said('count'), '3 names, 4 pictures');
  await page.click('#own');
  await shows('count', '45 names, 246 pictures');
  await open();
  assert.match(await said('about'), /^Model 019d08a0: /);
  assert.ok(await page.locator('#own').isHidden());
});

test('nothing moves by itself', async () => {
  assert.ok((await page.evaluate(() => window.moved)) < 0.01, String(await page.evaluate(() => window.moved)));
});

test('everything can be reached and has a name', async () => {
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll('button, input')]
      .filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.[0]?.textContent.trim()))
      .map((one) => one.outerHTML),
  );
  assert.deepEqual(nameless, []);
  await page.locator('h1').click();
  const reached = [];
  for (let i = 0; i < 4; i += 1) {
    await page.keyboard.press('Tab');
    reached.push(await page.evaluate(() => document.activeElement.id));
  }
  assert.deepEqual(reached.slice(0, 2), ['camera', 'pictures']);
  const ring = await page.evaluate(() => {
    document.getElementById('pictures').focus();
    return getComputedStyle(document.querySelector('label[for=pictures]')).outlineStyle;
  });
  assert.equal(ring, 'solid');
});

/** The contrast of texts with what lies behind them, by WCAG. */
function contrasts() {
  const levels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) =>
    levels(colour).slice(0, 3)
      .map((level) => level / 255)
      .map((level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4))
      .reduce((sum, level, i) => sum + level * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return levels(colour)[3] === 0 && one.parentElement ? behind(one.parentElement) : colour;
  };
  const visible = [...document.querySelectorAll('h1, h2, p, span, label, button:enabled')].filter((one) => one.offsetHeight);
  return visible.map((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.outerHTML.slice(0, 80)];
  });
}

test('it fits a phone and a desktop, in light and dark', async () => {
  for (const [name, viewport] of Object.entries(SCREENS)) {
    for (const colorScheme of ['light', 'dark']) {
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme });
      await drop(picture('odd.jpg'), picture('photo.jpg'), picture('noise.png'));
      await answers('something odd');
      const widest = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(widest <= viewport.width, `${widest} pixels wide on a ${name}`);
      const small = await page.locator('button:visible, .button').evaluateAll((all) =>
        all
          .map((one) => [one.textContent, one.offsetWidth, one.offsetHeight])
          .filter(([, width, height]) => Math.min(width, height) < 30),
      );
      assert.deepEqual(small, []);
      const pale = (await page.evaluate(contrasts)).filter(([contrast]) => contrast < 4.5);
      assert.deepEqual(pale, []);
      await page.screenshot({ path: join(OUT, `${name}-${colorScheme}.png`), fullPage: true });
    }
  }
});

test('it can be installed', async () => {
  const session = await context.newCDPSession(page);
  const { errors, data } = await session.send('Page.getAppManifest');
  assert.deepEqual(errors, []);
  for (const { src, sizes } of JSON.parse(data).icons.filter(({ type }) => type === 'image/png')) {
    const file = readFileSync(join(DIST, src));
    assert.equal(`${file.readUInt32BE(16)}x${file.readUInt32BE(20)}`, sizes);
  }
  const { installabilityErrors } = await session.send('Page.getInstallabilityErrors');
  // Playwright's contexts are as private windows, in which nothing is installed.
  assert.deepEqual(installabilityErrors.map(({ errorId }) => errorId).filter((one) => one !== 'in-incognito'), []);
});

test('a first visit is enough to open it without a network', async () => {
  const other = await serve(SITE);
  const visitor = await browser.newContext();
  try {
    const visit = await visitor.newPage();
    await visit.goto(other.address);
    await visit.locator('#main[aria-busy=false]').waitFor();
    await other.stop();
    await visit.reload();
    await visit.locator('#main[aria-busy=false]').waitFor();
    assert.equal(await visit.locator('#answer').textContent(), 'Ready');
    assert.equal(await visit.locator('#count').textContent(), '40 names, 240 pictures');
  } finally {
    await visitor.close();
  }
});

test('a camera that is refused is said in a sentence', async () => {
  await page.evaluate(() => {
    const refuse = () => Promise.reject(new DOMException('Permission denied', 'NotAllowedError'));
    navigator.mediaDevices.getUserMedia = refuse;
  });
  await page.click('#camera');
  await shows('trouble', 'There is no camera that may be used: Permission denied');
  assert.ok(await page.locator('#camera').isEnabled());
  await page.reload();
  await ready();
});

test('a newer version of the page takes its place, with all that it needs', async () => {
  const change = (name, before, then) => {
    const text = readFileSync(join(SITE, name), 'utf8');
    assert.ok(text.includes(before));
    writeFileSync(join(SITE, name), text.replace(before, then));
  };
  change('index.html', '<title>Recognise</title>', '<title>Newer</title>');
  change('sw.js', "'keras_featx-", "'keras_featx-newer-");
  await page.evaluate(async () => {
    const { serviceWorker } = navigator;
    const taken = new Promise((done) => serviceWorker.addEventListener('controllerchange', done));
    await (await serviceWorker.getRegistration()).update();
    await taken;
  });
  await page.waitForFunction(async () => (await caches.keys()).length === 1);
});

test('it opens and recognises without a network', async () => {
  await server.stop();
  await page.reload();
  await ready();
  assert.equal(await page.title(), 'Newer');
  assert.equal(await said('count'), '45 names, 246 pictures');
  await drop(picture('odd.jpg'));
  await answers('something odd');
  await page.goto(`${server.address}index.html`);
  await ready();
});

test('nothing complained, and nothing was asked of another origin', () => {
  assert.deepEqual(complaints, []);
  assert.deepEqual(strangers, []);
});
