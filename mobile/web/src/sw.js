// Keeps the page for when there is no network. The build fills in what it consists of.
const CACHE = 'keras_featx-__VERSION__';
const FILES = __FILES__;
const isRuntime = (url) => new URL(url).pathname.includes('/wasm/');

self.addEventListener('install', (event) => {
  const keep = async () => {
    const cache = await caches.open(CACHE);
    // Of the runtime's files a browser needs one kind, known when they were asked for once.
    const before = [];
    for (const name of await caches.keys()) {
      for (const { url } of await (await caches.open(name)).keys()) {
        if (name.startsWith('keras_featx-') && isRuntime(url)) before.push(url);
      }
    }
    // Not from the browser's own cache, which may have those of the page before.
    await cache.addAll([...FILES, ...before].map((file) => new Request(file, { cache: 'reload' })));
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener('activate', (event) => {
  const clean = async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith('keras_featx-') && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

// From the cache first: its name changes with the page.
self.addEventListener('fetch', (event) => {
  const { request } = event;
  if (request.method !== 'GET' || new URL(request.url).origin !== self.location.origin) return;
  const answer = async () => {
    const cache = await caches.open(CACHE);
    const key = request.url.replace(/\/index\.html$/, '/');
    const kept = await cache.match(key, { ignoreSearch: true });
    if (kept) return kept;
    const found = await fetch(request);
    if (found.ok && isRuntime(request.url)) await cache.put(key, found.clone());
    return found;
  };
  event.respondWith(answer());
});
