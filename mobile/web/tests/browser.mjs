// A server of folders, and Chromium with a camera that shows a pattern.
import { spawnSync } from 'node:child_process';
import { createReadStream, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { chromium } from 'playwright-core';
import { OUT } from './modules.mjs';

const TYPES = {
  '.css': 'text/css',
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.webmanifest': 'application/manifest+json',
};

/** Serves a folder under `/some/where/`, as a page need not lie at the root of a host. */
export async function serve(folder) {
  const server = createServer((request, response) => {
    const path = /^\/some\/where\/((?:[\w-]+\/)*)([\w.-]*)$/.exec(new URL(request.url, 'http://x').pathname);
    const file = path && join(folder, path[1], path[2] || 'index.html');
    if (!file || !statSync(file, { throwIfNoEntry: false })?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader('Content-Type', TYPES[extname(file)] ?? 'application/octet-stream');
    createReadStream(file).pipe(response);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const stop = () => {
    server.closeAllConnections();
    return new Promise((done) => server.close(done));
  };
  return { origin, address: `${origin}/some/where/`, stop };
}

/** A video of one frame: blocks of colours. */
function video() {
  const [width, height] = [320, 240];
  const plane = (columns, rows, level) =>
    Buffer.from(Array.from({ length: columns * rows }, (_, i) => level(i % columns, Math.floor(i / columns))));
  const frame = [
    Buffer.from('FRAME\n'),
    plane(width, height, (x, y) => 40 + 60 * ((x >> 6) % 3) + 10 * (y >> 6)),
    plane(width / 2, height / 2, (x) => 60 + 50 * ((x >> 5) % 3)),
    plane(width / 2, height / 2, (_, y) => 200 - 45 * ((y >> 5) % 3)),
  ];
  const path = join(OUT, 'camera.y4m');
  const head = Buffer.from(`YUV4MPEG2 W${width} H${height} F10:1 Ip A1:1 C420jpeg\n`);
  writeFileSync(path, Buffer.concat([head, ...frame, ...frame, ...frame]));
  return path;
}

function executable() {
  if (process.env.CHROMIUM_PATH) return process.env.CHROMIUM_PATH;
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    const found = spawnSync('which', [name]).stdout?.toString().trim();
    if (found) return found;
  }
  throw new Error('expected chromium, chromium-browser or google-chrome, or CHROMIUM_PATH that names it');
}

export function launch() {
  mkdirSync(OUT, { recursive: true });
  return chromium.launch({
    executablePath: executable(),
    args: [
      '--use-fake-device-for-media-stream',
      '--use-fake-ui-for-media-stream',
      `--use-file-for-fake-video-capture=${video()}`,
      // WebGL without a graphics card.
      '--use-angle=swiftshader',
      '--enable-unsafe-swiftshader',
      ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
    ],
  });
}
