// The modules of mobile/web in headless Chromium: MODEL.tflite IMAGE...; one line of JSON.
import { readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const WEB = join(dirname(fileURLToPath(import.meta.url)), '../../mobile/web');
const { launch, serve } = await import(join(WEB, 'tests/browser.mjs'));
const { modules, ROOT } = await import(join(WEB, 'tests/modules.mjs'));
const [model, ...images] = process.argv.slice(2);

const folder = await modules('edge', 'decode', 'embedder');
writeFileSync(join(folder, 'index.html'), '<!doctype html><title>edge</title>');
symlinkSync(join(ROOT, 'node_modules/@litertjs/core/wasm'), join(folder, 'wasm'));
symlinkSync(model, join(folder, 'model.tflite'));

/** MiB that the browser and its children do not share, by the system's count (Linux). */
function memory() {
  const parents = new Map();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      parents.set(pid, readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/.*\)/s, '').split(' ')[2]);
    } catch {} // it ended while we looked
  }
  const family = new Set([String(process.pid)]);
  for (let grown = true; grown; ) {
    grown = false;
    for (const [pid, parent] of parents) {
      if (family.has(parent) && !family.has(pid)) grown = Boolean(family.add(pid));
    }
  }
  family.delete(String(process.pid));
  let kib = 0;
  for (const pid of family) {
    try {
      kib += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))[1]);
    } catch {}
  }
  return kib / 1024;
}

const server = await serve(folder);
const browser = await launch();
const page = await browser.newPage();
await page.goto(server.address);
const before = memory();
const load = await page.evaluate(async () => {
  const started = performance.now();
  for (const name of ['decode', 'embedder']) Object.assign(window, await import(`./${name}.mjs`));
  const file = new Uint8Array(await (await fetch('./model.tflite')).arrayBuffer());
  window.embedder = await window.openEmbedder(file, 'model.tflite');
  return performance.now() - started;
});
const times = [];
for (const path of images) {
  const text = readFileSync(path).toString('base64');
  times.push(
    await page.evaluate(async (data) => {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      const started = performance.now();
      await window.embedder.embed(await window.decode(new Blob([bytes]), null, 'a'));
      return performance.now() - started;
    }, text),
  );
}
const after = memory();
await browser.close();
await server.stop();
console.log(JSON.stringify({ load, times, mib: after - before }));
