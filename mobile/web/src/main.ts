import { Camera } from './camera';
import { decode, frameOf } from './decode';
import { type Embedder, openEmbedder } from './embedder';
import { Gallery, type Match } from './gallery';
import { readGallery, writeGallery } from './gallery-file';
import * as page from './page';
import { Refused } from './refused';
import type { Pixels } from './resize';
import { setSetting, setting } from './store';
import { encoded, shrink } from './thumbnail';

/** The gallery among the files of the page, if there is one; set by the build. */
declare const SHIPPED_GALLERY: string | null;

const SHIPPED_MODEL = 'model.tflite';
const NEIGHBOURS = 5;
const THRESHOLD = 0.5;
// The service worker has this long, in milliseconds.
const FIRST_VISIT = 30_000;

/** A picture that was recognised. */
interface Seen {
  embedding: Float32Array;
  /** Of the embedding. */
  milliseconds: number;
  thumbnail: () => Promise<Blob>;
}

/** One of those that were dropped or chosen. */
interface Shown extends Seen {
  file: File;
}

const camera = new Camera(page.video);
let embedder: Embedder;
let gallery: Gallery;
let seen: Seen | undefined;
let shown: Shown[] = [];
const neighbourImages = new page.Images();
const stripImages = new page.Images();

/** Runs what a person asked for and says what went wrong. */
async function attempt(action: () => Promise<void>): Promise<void> {
  page.say('');
  try {
    await action();
  } catch (error) {
    complain(error);
  }
}

let last = Promise.resolve();
let waiting = 0;

/** Likewise, after what was asked for before. */
function inTurn(action: () => Promise<void>): void {
  waiting += 1;
  page.main.ariaBusy = 'true';
  last = last.then(() => attempt(action)).then(() => {
    waiting -= 1;
    page.main.ariaBusy = String(waiting > 0);
  });
}

function complain(error: unknown): void {
  if (!(error instanceof Refused)) console.error(error);
  page.say(error instanceof Error ? error.message : String(error), true);
}

function plural(number: number, one: string): string {
  return `${number.toLocaleString('en-US')} ${one}${number === 1 ? '' : 's'}`;
}

// Recognising

async function embed(image: Pixels): Promise<{ embedding: Float32Array; milliseconds: number }> {
  const started = performance.now();
  const embedding = await embedder.embed(image);
  return { embedding, milliseconds: performance.now() - started };
}

function identityOf(best: Match | undefined): string | undefined {
  return best && best.similarity >= Number(page.threshold.value) ? best.item.identity : undefined;
}

/** Says whose picture is looked at. */
function showAnswer(): void {
  if (!seen) return;
  const started = performance.now();
  const matches = gallery.search(seen.embedding, NEIGHBOURS);
  const milliseconds = performance.now() - started;
  const unknown = matches.length ? 'Nothing known' : 'Nothing is known yet';
  const said = identityOf(matches[0]) ?? unknown;
  if (page.answer.textContent !== said) page.answer.textContent = said; // it is read aloud
  page.measure.textContent =
    `embedded in ${seen.milliseconds.toFixed(1)} ms, searched in ${milliseconds.toFixed(1)} ms`;
  showMatches(matches);
  page.add.disabled = page.nameField.disabled = false;
}

function showMatches(matches: Match[]): void {
  neighbourImages.clear();
  page.neighbours.replaceChildren(
    ...matches.map(({ item, similarity }) => {
      const name = page.text(item.identity);
      const number = page.text(similarity.toFixed(3), 'number');
      if (item.picture) return page.row(neighbourImages.of(item.picture), name, number);
      const letter = page.text(Array.from(item.identity)[0] ?? '', 'letter');
      letter.setAttribute('aria-hidden', 'true');
      return page.row(letter, name, number);
    }),
  );
}

/** All pictures that were dropped or chosen together, each with its answer. */
async function showStrip(): Promise<void> {
  const some = shown;
  const thumbnails = await Promise.all(some.map((one) => one.thumbnail()));
  if (some !== shown) return;
  stripImages.clear();
  page.strip.hidden = some.length < 2;
  page.strip.replaceChildren(
    ...some.map((one, i) => {
      const choice = page.button('', () => select(one));
      const identity = identityOf(gallery.search(one.embedding, 1)[0]);
      choice.append(stripImages.of(thumbnails[i]!), page.text(identity ?? '?'));
      choice.setAttribute('aria-label', `${one.file.name}: ${identity ?? 'nothing known'}`);
      choice.setAttribute('aria-pressed', String(one === seen));
      return page.row(choice);
    }),
  );
}

function select(one: Shown): void {
  seen = one;
  if (page.picture.src) URL.revokeObjectURL(page.picture.src);
  page.picture.src = URL.createObjectURL(one.file);
  page.picture.alt = one.file.name;
  page.picture.hidden = false;
  page.invitation.hidden = true;
  showAnswer();
  [...page.strip.querySelectorAll('button')].forEach((choice, i) =>
    choice.setAttribute('aria-pressed', String(shown[i] === one)),
  );
}

async function showPictures(files: File[]): Promise<void> {
  stopCamera();
  const found: Shown[] = [];
  const refused: string[] = [];
  for (const file of files) {
    try {
      const image = await decode(file, embedder.facts.preprocess.background, file.name);
      const small = shrink(image);
      found.push({ file, thumbnail: () => encoded(small), ...(await embed(image)) });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refused.push(error.message);
    }
  }
  if (found[0]) {
    shown = found;
    select(found[0]);
    await showStrip();
  }
  if (refused.length) page.say(refused.join('; '), true);
}

async function startCamera(): Promise<void> {
  page.cameraButton.disabled = true;
  try {
    await camera.start(look, stopCamera);
  } finally {
    page.cameraButton.disabled = false;
  }
  if (!camera.isOn) return;
  shown = [];
  await showStrip();
  page.video.hidden = false;
  page.picture.hidden = page.invitation.hidden = true;
  page.cameraButton.textContent = 'Camera off';
}

async function look(): Promise<void> {
  try {
    const image = frameOf(page.video);
    const found = await embed(image);
    if (!camera.isOn) return;
    seen = { thumbnail: () => encoded(shrink(image)), ...found };
    showAnswer();
  } catch (error) {
    stopCamera();
    complain(error);
  }
}

function stopCamera(): void {
  camera.stop();
  if (page.video.hidden) return;
  page.video.hidden = true;
  page.invitation.hidden = false;
  page.cameraButton.textContent = 'Camera on';
}

// What is known

async function showGallery(): Promise<void> {
  const counts = gallery.counts();
  page.count.textContent = `${plural(counts.length, 'name')}, ${plural(gallery.count, 'picture')}`;
  page.identities.replaceChildren(
    ...counts.map(([identity, number]) => {
      const forget = page.button('Forget', () => inTurn(() => forgetIdentity(identity)));
      forget.setAttribute('aria-label', `Forget ${identity}`);
      return page.row(page.text(identity), page.text(String(number), 'number quiet'), forget);
    }),
  );
  page.known.replaceChildren(...counts.map(([identity]) => new Option(identity, identity)));
  showAnswer();
  await showStrip();
}

async function forgetIdentity(identity: string): Promise<void> {
  await gallery.remove(identity);
  await showGallery();
  page.say(`${identity} is forgotten.`);
}

async function nameIt(identity: string): Promise<void> {
  if (!seen || !identity) return;
  await gallery.add(identity, seen.embedding, await seen.thumbnail());
  page.nameField.value = '';
  await showGallery();
  // So that the browser does not clear it when space is short; where it says no, all works as well.
  await navigator.storage?.persist?.();
}

function setThreshold(value: number): void {
  page.threshold.value = String(value);
  page.shownThreshold.textContent = Number(page.threshold.value).toFixed(2);
}

function keepThreshold(): Promise<void> {
  return setSetting(`threshold ${gallery.fingerprint}`, Number(page.threshold.value));
}

async function importGallery(data: Uint8Array, name: string): Promise<number> {
  const file = readGallery(data, name);
  if (file.fingerprint !== gallery.fingerprint) {
    throw new Refused(
      `${name}: expected a gallery of the model ${gallery.fingerprint}, got one of ${file.fingerprint}`,
    );
  }
  if (file.size !== gallery.size) {
    throw new Refused(`${name}: expected embeddings of size ${gallery.size}, got ${file.size}`);
  }
  const added = await gallery.take(file);
  if (file.threshold !== null) {
    setThreshold(file.threshold);
    await keepThreshold();
  }
  await showGallery();
  return added;
}

function exportGallery(): void {
  const data = writeGallery(gallery.file(Number(page.threshold.value)));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([data]));
  link.download = 'gallery.kfg';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Models

/** Opens a model, and the gallery of it that this browser has. */
async function useModel(file: Uint8Array, name: string): Promise<void> {
  const opened = await openEmbedder(file, name);
  const { fingerprint } = opened.facts;
  const [before, items] = [embedder, await Gallery.open(fingerprint, opened.size)];
  setThreshold((await setting<number>(`threshold ${fingerprint}`)) ?? THRESHOLD);
  stopCamera();
  [embedder, gallery, seen, shown] = [opened, items, undefined, []];
  await before?.close();
  page.picture.hidden = true;
  page.invitation.hidden = false;
  page.add.disabled = page.nameField.disabled = true;
  page.measure.textContent = '\u00a0';
  page.answer.textContent = 'Ready';
  page.about.textContent =
    `Model ${fingerprint.slice(0, 8)}: pictures of ${opened.height} × ${opened.width} pixels, ` +
    `${opened.size} numbers each.`;
  showMatches([]);
  await showGallery();
}

async function useShippedModel(): Promise<void> {
  await useModel(await shippedFile(SHIPPED_MODEL), SHIPPED_MODEL);
  await setSetting('model', undefined);
  page.ownModel.hidden = true;
  const seeded = `seeded ${gallery.fingerprint}`;
  if (SHIPPED_GALLERY === null || (await setting(seeded))) return;
  await importGallery(await shippedFile(SHIPPED_GALLERY), SHIPPED_GALLERY);
  await setSetting(seeded, true);
}

async function useOtherModel(file: File): Promise<void> {
  const data = await bytesOf(file);
  await useModel(data, file.name);
  await setSetting('model', { data, name: file.name });
  page.ownModel.hidden = false;
}

async function shippedFile(name: string): Promise<Uint8Array> {
  const found = await fetch(new URL(name, document.baseURI));
  if (!found.ok) throw new Refused(`${name}: expected a file of this page, got HTTP ${found.status}`);
  return new Uint8Array(await found.arrayBuffer());
}

const bytesOf = async (file: Blob) => new Uint8Array(await file.arrayBuffer());

/** Lets the service worker see what is loaded from now on, so that all is there without a network. */
async function keepOffline(): Promise<void> {
  if (!import.meta.env.PROD || !navigator.serviceWorker) return;
  const { serviceWorker } = navigator;
  try {
    const { active, installing } = await serviceWorker.register('./sw.js');
    if (active || serviceWorker.controller) return;
    // The first visit. It loads what will be needed in any case; should it fail, the page goes on.
    await new Promise<void>((resolve) => {
      serviceWorker.oncontrollerchange = () => resolve();
      if (installing) installing.onstatechange = () => installing.state === 'redundant' && resolve();
      setTimeout(resolve, FIRST_VISIT);
    });
  } catch (error) {
    console.warn('this page will not open without a network:', error);
  }
}

async function start(): Promise<void> {
  await keepOffline();
  try {
    const other = await setting<{ data: Uint8Array; name: string }>('model');
    if (other) {
      await useModel(other.data, other.name);
      page.ownModel.hidden = false;
    } else {
      await useShippedModel();
    }
  } finally {
    // Of what is there, all can be used: a gallery that does not fit leaves a model.
    page.cameraButton.disabled = page.pictures.disabled = page.importFile.disabled = !embedder;
    page.exportButton.disabled = page.threshold.disabled = !embedder;
    page.modelFile.disabled = false;
    if (!embedder) page.answer.textContent = 'There is no model';
  }
}

// What a person does

/** Files that are chosen with an input. */
function chosen(input: HTMLInputElement, use: (files: File[]) => Promise<void>): void {
  input.onchange = () => {
    const files = [...(input.files ?? [])];
    input.value = ''; // so that the same file can be chosen again
    if (files.length) inTurn(() => use(files));
  };
}

chosen(page.pictures, showPictures);
chosen(page.importFile, async ([file]) => {
  const added = await importGallery(await bytesOf(file!), file!.name);
  page.say(`${file!.name}: ${plural(added, 'picture')} added.`);
});
chosen(page.modelFile, ([file]) => useOtherModel(file!));
page.ownModel.onclick = () => inTurn(useShippedModel);
page.exportButton.onclick = () => inTurn(async () => exportGallery());
// At once, as a browser may ask a person and wait for long.
page.cameraButton.onclick = () => attempt(async () => (camera.isOn ? stopCamera() : startCamera()));
page.closeMessage.onclick = () => page.say('');
page.naming.onsubmit = (event) => {
  event.preventDefault();
  inTurn(() => nameIt(page.nameField.value.trim()));
};
page.threshold.oninput = () => {
  setThreshold(Number(page.threshold.value));
  showAnswer();
};
page.threshold.onchange = () =>
  inTurn(async () => {
    await keepThreshold();
    await showStrip();
  });
// Anywhere on the page, as a browser would open in its place what is dropped beside the frame.
document.ondragover = (event) => {
  event.preventDefault();
  page.view.classList.add('over');
};
document.ondragleave = () => page.view.classList.remove('over');
document.ondrop = (event) => {
  event.preventDefault();
  page.view.classList.remove('over');
  const files = [...(event.dataTransfer?.files ?? [])];
  if (files.length && !page.pictures.disabled) inTurn(() => showPictures(files));
};
document.onvisibilitychange = () => {
  if (document.hidden) stopCamera();
};

inTurn(start);
