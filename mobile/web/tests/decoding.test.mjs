// What needs a browser but not the page: decoding and LiteRT, against Python.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { crc32, deflateSync } from 'node:zlib';
import { launch, serve } from './browser.mjs';
import { archive, DATA, modules, ROOT } from './modules.mjs';

const fixtures = JSON.parse(readFileSync(join(DATA, 'fixtures.json'), 'utf8'));
const read = (name) => readFileSync(join(DATA, name)).toString('base64');
const sha256 = (text) => createHash('sha256').update(Buffer.from(text, 'base64')).digest('hex');
let server;
let browser;
let page;

before(async () => {
  const folder = await modules('browser', 'decode', 'embedder', 'resize');
  writeFileSync(join(folder, 'index.html'), '<!doctype html><title>modules</title>');
  symlinkSync(join(ROOT, 'node_modules/@litertjs/core/wasm'), join(folder, 'wasm'));
  symlinkSync(join(ROOT, 'public/model.tflite'), join(folder, 'model.tflite'));
  server = await serve(folder);
  browser = await launch();
  page = await browser.newPage();
  await page.goto(server.address);
  await page.evaluate(async () => {
    const load = async (name) => Object.assign(window, await import(`./${name}.mjs`));
    for (const name of ['decode', 'embedder', 'resize']) await load(name);
    window.bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    window.text = (data) => {
      let letters = '';
      for (const byte of data) letters += String.fromCharCode(byte);
      return btoa(letters);
    };
  });
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Size and pixels of a picture, or what is said of it. */
function decoded(text, background = null) {
  return page.evaluate(
    async ([data, colour]) => {
      try {
        const image = await window.decode(new Blob([window.bytes(data)]), colour, 'a');
        return { size: [image.height, image.width], pixels: window.text(image.data) };
      } catch (error) {
        return error.message;
      }
    },
    [text, background],
  );
}

for (const [name, wanted] of Object.entries(fixtures.decoded)) {
  test(`${name} is decoded as in Python`, async () => {
    const found = await decoded(read(name));
    assert.deepEqual(found.size, wanted.size);
    assert.equal(sha256(found.pixels), wanted.sha256);
  });
}

test('a picture is laid over the background of the preprocessing', async () => {
  const cases = fixtures.pixels.filter(({ how }) => how.background !== null);
  assert.equal(cases.length, 4);
  for (const { file, size, how, sha256: wanted } of cases) {
    const found = await page.evaluate(
      async ([data, [height, width], preprocess]) => {
        const image = await window.decode(new Blob([window.bytes(data)]), preprocess.background, 'a');
        return window.text(window.prepare(image, height, width, preprocess).data);
      },
      [read(file), size, how],
    );
    assert.equal(sha256(found), wanted, file);
  }
});

/** A PNG of any size, of red, green, blue and opacity by a function. */
function png(width, height, pixel) {
  const rows = Buffer.alloc(height * (4 * width + 1));
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) rows.set(pixel(x, y), y * (4 * width + 1) + 1 + 4 * x);
  }
  const chunk = (name, body) => {
    const named = Buffer.concat([Buffer.from(name), body]);
    const [length, checksum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(body.length);
    checksum.writeUInt32BE(crc32(named));
    return Buffer.concat([length, named, checksum]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 6], 8);
  const parts = [chunk('IHDR', head), chunk('IDAT', deflateSync(rows)), chunk('IEND', Buffer.alloc(0))];
  return Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), ...parts]).toString('base64');
}

test('a picture larger than what is read back at a time keeps every pixel', async () => {
  const pixel = (x, y) => [x & 255, y & 255, (x * y + (x >> 8)) & 255, (3 * x + 5 * y) & 255];
  const [width, height] = [2500, 700];
  const found = await decoded(png(width, height, pixel));
  assert.deepEqual(found.size, [height, width]);
  const pixels = Buffer.from(found.pixels, 'base64');
  const wanted = Buffer.alloc(3 * width * height);
  for (let i = 0; i < width * height; i += 1) {
    wanted.set(pixel(i % width, Math.floor(i / width)).slice(0, 3), 3 * i);
  }
  assert.ok(pixels.equals(wanted));
});

test('what is no picture, or cut, or huge, is refused with a sentence', async () => {
  const refused = 'a: expected a picture that can be decoded';
  const cut = (name, share) => {
    const data = readFileSync(join(DATA, name));
    return data.subarray(0, Math.floor(data.length * share)).toString('base64');
  };
  for (const data of ['', btoa('no picture'), cut('large.png', 0.5), cut('photo.jpg', 0.5), cut('clear.webp', 0.5), cut('see_through.gif', 0.5)]) {
    assert.equal(await decoded(data), refused);
  }
  const huge = png(10_001, 10_000, () => [0, 0, 0, 0]).slice(0);
  assert.equal(await decoded(huge), 'a: expected at most 100,000,000 pixels, got 100,010,000');
});

test('embeddings are those of LiteRT in Python', async () => {
  await page.evaluate(async () => {
    const file = new Uint8Array(await (await fetch('./model.tflite')).arrayBuffer());
    window.embedder = await window.openEmbedder(file, 'model.tflite');
  });
  for (const [name, text] of Object.entries(fixtures.embeddings)) {
    const found = await page.evaluate(async (data) => {
      const image = await window.decode(new Blob([window.bytes(data)]), null, 'a');
      return [...(await window.embedder.embed(image))];
    }, read(name));
    const bytes = Buffer.from(text, 'base64');
    const worst = Math.max(...found.map((value, i) => Math.abs(value - bytes.readFloatLE(4 * i))));
    assert.equal(found.length, bytes.length / 4);
    assert.ok(worst < 1e-5, `${name}: ${worst}`);
  }
});

test('many at once are embedded one after another, and a closed model frees its memory last', async () => {
  const worst = await page.evaluate(async () => {
    const image = (level) => ({ height: 3, width: 3, data: new Uint8Array(27).fill(level) });
    const file = new Uint8Array(await (await fetch('./model.tflite')).arrayBuffer());
    const other = await window.openEmbedder(file, 'model.tflite');
    const alone = [];
    for (const level of [0, 90, 255]) alone.push(await window.embedder.embed(image(level)));
    const together = Promise.all([0, 90, 255].map((level) => other.embed(image(level))));
    await other.close();
    const differences = (await together).map((one, i) => one.map((value, j) => Math.abs(value - alone[i][j])));
    return Math.max(...differences.map((some) => Math.max(...some)));
  });
  assert.equal(worst, 0);
});

test('a model that LiteRT cannot open is refused with a sentence, and others still open', async () => {
  const facts = {
    format: 1,
    fingerprint: 'ab'.repeat(32),
    preprocess: fixtures.pixels[0].how,
  };
  const model = archive(Buffer.alloc(1000, 'TFL3'), 'keras_featx.json', Buffer.from(JSON.stringify(facts)), { crc32 });
  const said = await page.evaluate(async (data) => {
    try {
      await window.openEmbedder(window.bytes(data), 'broken.tflite');
      return 'opened';
    } catch (error) {
      return error.message;
    }
  }, model.toString('base64'));
  assert.equal(said, 'broken.tflite: expected a model that can be opened');
  const size = await page.evaluate(async () => {
    const file = new Uint8Array(await (await fetch('./model.tflite')).arrayBuffer());
    return (await window.openEmbedder(file, 'model.tflite')).size;
  });
  assert.equal(size, 256);
});
