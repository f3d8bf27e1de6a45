// MediaPipe's ImageEmbedder takes the model as it is, and gives the vector that Python has.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { launch, serve } from './browser.mjs';
import { DATA, OUT, ROOT } from './modules.mjs';

const PACKAGE = join(ROOT, 'node_modules/@mediapipe/tasks-vision');
const PICTURE = 'full.jpg'; // of the model's size, as MediaPipe resizes in its own way
const fixtures = JSON.parse(readFileSync(join(DATA, 'fixtures.json'), 'utf8'));

/** A folder with MediaPipe's files, the model, and a page of nothing. */
function site() {
  const folder = join(OUT, 'mediapipe');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const links = {
    'vision_bundle.mjs': PACKAGE,
    'vision_wasm_internal.js': join(PACKAGE, 'wasm'),
    'vision_wasm_internal.wasm': join(PACKAGE, 'wasm'),
    'model.tflite': join(ROOT, 'public'),
    [PICTURE]: DATA,
  };
  for (const [name, from] of Object.entries(links)) symlinkSync(join(from, name), join(folder, name));
  writeFileSync(join(folder, 'index.html'), '<!doctype html><title>MediaPipe</title>');
  return folder;
}

test('MediaPipe in a browser embeds as Python does', async () => {
  const server = await serve(site());
  const browser = await launch();
  try {
    const page = await browser.newPage();
    await page.goto(server.address);
    const found = await page.evaluate(async (picture) => {
      const { ImageEmbedder } = await import('./vision_bundle.mjs');
      const files = { wasmLoaderPath: './vision_wasm_internal.js', wasmBinaryPath: './vision_wasm_internal.wasm' };
      const options = { baseOptions: { modelAssetPath: './model.tflite', delegate: 'CPU' } };
      const embedder = await ImageEmbedder.createFromOptions(files, options);
      const image = await createImageBitmap(await (await fetch(`./${picture}`)).blob());
      const { embeddings } = embedder.embed(image);
      embedder.close();
      return embeddings.map(({ floatEmbedding, headName }) => [headName, [...floatEmbedding]]);
    }, PICTURE);
    assert.equal(found.length, 1);
    const [name, embedding] = found[0];
    const wanted = Buffer.from(fixtures.embeddings[PICTURE], 'base64');
    assert.equal(name, 'embedding');
    assert.equal(embedding.length, wanted.length / 4);
    embedding.forEach((value, i) => assert.ok(Math.abs(value - wanted.readFloatLE(4 * i)) < 1e-5));
  } finally {
    await browser.close();
    await server.stop();
  }
});
