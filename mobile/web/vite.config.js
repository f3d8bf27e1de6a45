import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('.', import.meta.url));
// LiteRT's files for browsers with all of SIMD and for others, served from the page's own origin.
const WASM = join(ROOT, 'node_modules/@litertjs/core/wasm');
const KINDS = ['litert_wasm_internal', 'litert_wasm_compat_internal'];
const SHIPPED = readdirSync(join(ROOT, 'public')).sort();
// The browser itself then refuses every other origin; LiteRT compiles WebAssembly.
const POLICY = [
  "default-src 'self'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "img-src 'self' blob:",
  "media-src 'self' blob:",
  "object-src 'none'",
  "base-uri 'none'",
].join('; ');

function runtime() {
  return {
    name: 'runtime',
    generateBundle() {
      for (const name of KINDS.flatMap((kind) => [`${kind}.js`, `${kind}.wasm`])) {
        this.emitFile({ type: 'asset', fileName: `wasm/${name}`, source: readFileSync(join(WASM, name)) });
      }
    },
    configureServer(server) {
      server.middlewares.use('/wasm', (request, response, next) => {
        const name = /^\/(litert_wasm\w*\.(?:js|wasm))$/.exec(request.url ?? '')?.[1];
        if (!name) return next();
        response.setHeader('Content-Type', name.endsWith('.js') ? 'text/javascript' : 'application/wasm');
        response.end(readFileSync(join(WASM, name)));
      });
    },
  };
}

function policy() {
  const tag = { tag: 'meta', attrs: { 'http-equiv': 'Content-Security-Policy', content: POLICY }, injectTo: 'head-prepend' };
  return { name: 'policy', apply: 'build', transformIndexHtml: () => [tag] };
}

// The service worker, with the names of what makes up the page.
function offline() {
  return {
    name: 'offline',
    enforce: 'post',
    generateBundle(_, bundle) {
      const made = Object.keys(bundle).sort();
      const own = made.filter((name) => name !== 'index.html' && !name.startsWith('wasm/'));
      const digest = createHash('sha256');
      for (const name of made) digest.update(bundle[name].code ?? bundle[name].source);
      for (const name of SHIPPED) digest.update(readFileSync(join(ROOT, 'public', name)));
      const source = readFileSync(join(ROOT, 'src/sw.js'), 'utf8')
        .replace('__VERSION__', digest.digest('hex').slice(0, 16))
        .replace('__FILES__', JSON.stringify(['./', ...own, ...SHIPPED]));
      this.emitFile({ type: 'asset', fileName: 'sw.js', source });
    },
  };
}

const gallery = SHIPPED.find((name) => name.endsWith('.kfg')) ?? null;

export default {
  root: ROOT,
  base: './',
  define: { SHIPPED_GALLERY: JSON.stringify(gallery) },
  plugins: [runtime(), policy(), offline()],
  build: { target: 'es2022' },
};
