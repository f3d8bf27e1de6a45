/** An item as the browser's database keeps it. */
export interface Item {
  id?: number;
  identity: string;
  fingerprint: string;
  /** Float16 numbers by their bits. */
  halves: Uint16Array;
  codes?: Int8Array;
  scale?: number;
  picture?: Blob;
}

let database: Promise<IDBDatabase> | undefined;

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function open(): Promise<IDBDatabase> {
  if (database) return database;
  const request = indexedDB.open('keras_featx', 1);
  request.onupgradeneeded = () => {
    const items = request.result.createObjectStore('items', { keyPath: 'id', autoIncrement: true });
    items.createIndex('fingerprint', 'fingerprint');
    request.result.createObjectStore('settings');
  };
  database = done(request);
  return database;
}

/** Changes a store, all or nothing. */
async function change(name: string, action: (store: IDBObjectStore) => void): Promise<void> {
  const transaction = (await open()).transaction(name, 'readwrite');
  const ended = new Promise<void>((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
  action(transaction.objectStore(name));
  await ended;
}

/** All items of a model, in the order they were added. */
export async function itemsOf(fingerprint: string): Promise<Item[]> {
  const items = (await open()).transaction('items').objectStore('items');
  return done(items.index('fingerprint').getAll(fingerprint));
}

/** Adds items and gives them their ids. */
export function addItems(items: Item[]): Promise<void> {
  return change('items', (store) => {
    for (const item of items) {
      const request = store.add(item);
      request.onsuccess = () => {
        item.id = request.result as number;
      };
    }
  });
}

export function removeItems(ids: number[]): Promise<void> {
  return change('items', (store) => {
    for (const id of ids) store.delete(id);
  });
}

export async function setting<T>(name: string): Promise<T | undefined> {
  return done((await open()).transaction('settings').objectStore('settings').get(name));
}

/** Keeps a setting; `undefined` forgets it. */
export function setSetting(name: string, value: unknown): Promise<void> {
  return change('settings', (store) => {
    if (value === undefined) store.delete(name);
    else store.put(value, name);
  });
}
