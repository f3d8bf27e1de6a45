// What needs no browser: files, resizing, search; against numbers of Python.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { crc32 as zlibCrc32, inflateSync } from 'node:zlib';
import { archive, DATA, modules, ROOT } from './modules.mjs';

const NAMES = ['crc32', 'facts', 'gallery-file', 'half', 'resize', 'rounding', 'search'];
const fixtures = JSON.parse(readFileSync(join(DATA, 'fixtures.json'), 'utf8'));
const read = (name) => new Uint8Array(readFileSync(join(DATA, name)));
const decoded = (text) => {
  const bytes = Buffer.from(text, 'base64');
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
};
const own = {};

before(async () => {
  const folder = await modules('node', ...NAMES);
  for (const name of NAMES) Object.assign(own, await import(`${folder}/${name}.mjs`));
});

test('checksums are those of zlib', () => {
  for (const text of ['', '123456789', 'gallery'.repeat(1000)]) {
    assert.equal(own.crc32(Buffer.from(text)), zlibCrc32(text));
  }
  assert.equal(own.crc32(Buffer.from('123456789')), 0xcbf43926);
});

test('a half goes to the even number', () => {
  const values = [0, 0.5, 1.5, 2.5, 2.4999, 2.5001, -0.5, -1.5, 254.5];
  assert.deepEqual(values.map(own.halfToEven).map((value) => value + 0), [0, 0, 2, 2, 2, 3, 0, -2, 254]);
});

/** The value of a float16 by its definition. */
function half(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const magnitude = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (2 ** -14 * fraction) / 1024;
  return bits & 0x8000 ? -magnitude : magnitude;
}

test('every finite float16 is read, written, and the nearest of what lies between', () => {
  for (let bits = 0; bits < 0x7c00; bits += 1) {
    const value = half(bits);
    assert.equal(own.fromHalf(bits), value);
    assert.equal(own.fromHalf(bits | 0x8000), -value);
    assert.equal(own.toHalf(value), bits);
    assert.equal(own.toHalf(-value), bits | 0x8000);
    if (bits === 0x7bff) continue;
    const middle = (value + half(bits + 1)) / 2;
    assert.equal(own.toHalf(middle), bits + (bits & 1), `the middle above ${value}`);
    assert.equal(own.toHalf(middle * (1 + 2 ** -20)), bits + 1);
    assert.equal(own.toHalf(middle * (1 - 2 ** -20)), bits);
  }
});

test('gallery files are read as in Python, and written byte by byte as Python does', () => {
  for (const name of ['float16.kfg', 'int8.kfg']) {
    const file = own.readGallery(read(name), name);
    assert.deepEqual(file.names, fixtures.names);
    assert.deepEqual(file.halves, new Uint16Array(decoded(fixtures.halves)));
    assert.deepEqual([file.fingerprint, file.threshold, file.size], [fixtures.fingerprint, 0.75, 256]);
    assert.equal(file.codes === undefined, name === 'float16.kfg');
    assert.deepEqual(own.writeGallery(file), read('float16.kfg'));
  }
  const none = { names: [], halves: new Uint16Array(), size: 3, fingerprint: 'ab'.repeat(32), threshold: null };
  assert.deepEqual(own.readGallery(own.writeGallery(none), 'none'), none);
});

test('codes are those of Python', () => {
  const file = own.readGallery(read('int8.kfg'), 'a');
  Object.values(fixtures.embeddings).forEach((text, i) => {
    const { codes, scale } = own.encode(new Float32Array(decoded(text)));
    assert.deepEqual(codes, file.codes.slice(256 * i, 256 * (i + 1)));
    assert.equal(scale, file.scales[i]);
  });
});

/** The bytes of a gallery with something changed and its checksums made to fit. */
function changed(name, change) {
  const data = read(name);
  const view = new DataView(data.buffer);
  change(view, data);
  view.setUint32(72, zlibCrc32(data.subarray(128)), true);
  view.setUint32(76, zlibCrc32(data.subarray(0, 76)), true);
  return data;
}

test('a gallery that is damaged is refused with a sentence', () => {
  const namesAt = 128 + 64;
  const put = (at, value) => (view) => view.setUint32(at, value, true);
  const whole = read('float16.kfg');
  const flipped = (at) => {
    const data = read('float16.kfg');
    data[at] ^= 4;
    return data;
  };
  for (const [data, reason] of [
    [Buffer.from('PK'), 'expected a gallery file, got another kind of file'],
    [new Uint8Array(), 'expected a gallery file, got another kind of file'],
    [whole.slice(0, 100), 'expected at least 128 bytes, got 100'],
    [whole.slice(0, 1000), `expected ${whole.length.toLocaleString('en-US')} bytes, got 1,000`],
    [new Uint8Array([...whole, 0]), 'expected 2,304 bytes, got 2,305'],
    [flipped(32), 'damaged: the checksum of its header is another'],
    [flipped(2000), 'damaged: the checksum of its contents is another'],
    [changed('float16.kfg', put(8, 2)), 'expected a gallery file of version 1, got 2'],
    [changed('float16.kfg', put(12, 2)), 'damaged: its header holds impossible numbers'],
    [changed('float16.kfg', put(16, 0)), 'damaged: its header holds impossible numbers'],
    [changed('float16.kfg', put(20, 2 ** 32 - 1)), 'damaged: its header holds impossible numbers'],
    [changed('float16.kfg', put(28, 1)), 'expected 2,216,203,127,040 bytes, got 2,304'],
    [changed('float16.kfg', put(128 + 4, 3)), 'damaged: an item names identity 3'],
    [changed('float16.kfg', put(namesAt, 1)), 'damaged: the names of its identities'],
    [changed('float16.kfg', put(namesAt + 4, 1000)), 'damaged: the names of its identities'],
    [changed('float16.kfg', put(namesAt + 12, 9)), 'damaged: the names of its identities'],
    [changed('float16.kfg', put(namesAt + 16, 0xffffffff)), 'damaged: the names of its identities'],
  ]) {
    assert.throws(() => own.readGallery(data, 'a.kfg'), { message: `a.kfg: ${reason}` });
  }
});

test('every cut and every flipped bit of a gallery is refused', () => {
  const whole = read('close_int8.kfg');
  for (let i = 0; i < whole.length; i += 1) {
    assert.throws(() => own.readGallery(whole.subarray(0, i), 'a'), /^Error: a: /);
    if (i >= 80 && i < 128) continue; // zeros without a meaning
    const data = whole.slice();
    data[i] ^= 1 << (i % 8);
    assert.throws(() => own.readGallery(data, 'a'), /^Error: a: /);
  }
});

test('neighbours are those of Python, by float16 and by codes with a second look', () => {
  const queries = new Float32Array(decoded(fixtures.queries));
  for (const [precision, { rows, similarities }] of Object.entries(fixtures.close)) {
    const file = own.readGallery(read(`close_${precision}.kfg`), 'a');
    const table = own.table(file.halves, file.size, file.codes, file.scales);
    assert.equal(table.floats === undefined, precision === 'int8');
    rows.forEach((wanted, i) => {
      const found = own.nearest(queries.subarray(16 * i, 16 * (i + 1)), table, 3);
      assert.deepEqual(found.map(({ row }) => row), wanted);
      found.forEach(({ similarity }, j) => assert.ok(Math.abs(similarity - similarities[i][j]) < 1e-6));
    });
    assert.deepEqual(rows[0].slice(0, 2), [3, 7]); // equal, so the lower first
    assert.equal(own.nearest(queries.subarray(0, 16), table, 100).length, 60);
  }
  assert.deepEqual(own.nearest(new Float32Array(3), own.table(new Uint16Array(), 3), 5), []);
});

/** Red, green and blue of a PNG of 8 bits as Pillow writes it; for the tests' own files. */
function png(name) {
  const data = readFileSync(join(DATA, name));
  const [width, height, channels] = [data.readUInt32BE(16), data.readUInt32BE(20), data[25] === 6 ? 4 : 3];
  const parts = [];
  for (let at = 8; at < data.length; at += 12 + data.readUInt32BE(at)) {
    if (data.toString('latin1', at + 4, at + 8) === 'IDAT') parts.push(data.subarray(at + 8, at + 8 + data.readUInt32BE(at)));
  }
  const rows = inflateSync(Buffer.concat(parts));
  const [length, image] = [width * channels, Buffer.alloc(width * height * channels)];
  for (let y = 0; y < height; y += 1) {
    for (let i = 0; i < length; i += 1) {
      const at = y * length + i;
      const a = i < channels ? 0 : image[at - channels];
      const b = y ? image[at - length] : 0;
      const c = i < channels || !y ? 0 : image[at - length - channels];
      const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      const paeth = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
      image[at] = rows[y * (length + 1) + 1 + i] + [0, a, b, (a + b) >> 1, paeth][rows[y * (length + 1)]];
    }
  }
  const pixels = image.filter((_, i) => i % channels < 3);
  return { height, width, data: new Uint8Array(pixels) };
}

test('resized pixels are those of training', () => {
  let compared = 0;
  for (const { file, size: [height, width], how, sha256, pixels } of fixtures.pixels) {
    if (how.background !== null) continue; // of decoding
    const found = own.prepare(png(file), height, width, how);
    const what = `${file} ${height} x ${width} ${JSON.stringify(how)}`;
    assert.deepEqual([found.height, found.width], [height, width]);
    compared += 1;
    if (sha256) {
      assert.equal(createHash('sha256').update(found.data).digest('hex'), sha256, what);
      continue;
    }
    const wanted = new Uint8Array(decoded(pixels));
    assert.equal(found.data.length, wanted.length);
    const off = found.data.map((value, i) => Math.abs(value - wanted[i]));
    assert.ok(Math.max(...off) <= 1, what);
    const few = off.filter((value) => value > 0).length;
    assert.ok(few <= off.length / 500, `${what}: ${few} of ${off.length} are off`);
  }
  assert.equal(compared, 28);
});

const PREPROCESS = {
  resize: 'squash', resize_short: null, pad_value: 0, interpolation: 'bilinear', antialias: false,
  backend: 'tensorflow', background: null, reduced_decoding: false,
};
const FACTS = { format: 1, fingerprint: 'ab'.repeat(32), licence: null, preprocess: PREPROCESS };
const packed = (facts, options = {}) =>
  archive(Buffer.from('model'), 'keras_featx.json', Buffer.from(JSON.stringify(facts)), { crc32: zlibCrc32, ...options });

test('a model says what it is', () => {
  const shipped = own.readFacts(new Uint8Array(readFileSync(join(ROOT, 'public/model.tflite'))), 'a');
  assert.equal(shipped.fingerprint, fixtures.fingerprint);
  assert.equal(shipped.preprocess.resize, 'squash');
  assert.deepEqual(own.readFacts(packed(FACTS), 'a').preprocess, PREPROCESS);
});

test('a model of another kind, or for other pixels, is refused with a sentence', () => {
  const other = (changes) => packed({ ...FACTS, preprocess: { ...PREPROCESS, ...changes } });
  const whole = packed(FACTS);
  const flipped = (at) => {
    const data = Buffer.from(whole);
    data[at] ^= 1;
    return data;
  };
  for (const data of [
    Buffer.from(''), Buffer.from('no model'), whole.subarray(0, -1), flipped(100), packed(null), packed([]),
    packed(FACTS, { method: 8 }), packed({ ...FACTS, format: 2 }), packed({ ...FACTS, fingerprint: 'abc' }),
    packed({ format: 1, fingerprint: FACTS.fingerprint }), other({ resize: 'stretch' }),
    other({ resize_short: 0.5 }), other({ pad_value: 256 }), other({ antialias: 'no' }), other({ background: [0, 0] }),
    archive(Buffer.from('model'), 'other.json', Buffer.from('{}'), { crc32: zlibCrc32 }),
  ]) {
    assert.throws(() => own.readFacts(data, 'a.tflite'), { message: 'a.tflite: expected a .tflite of keras-featx export' });
  }
  for (const [changes, got] of [
    [{ interpolation: 'area' }, 'area, tensorflow, without reduced_decoding'],
    [{ backend: 'opencv' }, 'bilinear, opencv, without reduced_decoding'],
    [{ reduced_decoding: true }, 'bilinear, tensorflow, with reduced_decoding'],
  ]) {
    assert.throws(() => own.readFacts(other(changes), 'a.tflite'), {
      message: `a.tflite: expected a preprocessing of bilinear, tensorflow, without reduced_decoding, got ${got}`,
    });
  }
});

test('no cut of a model makes anything but a sentence', () => {
  const whole = packed(FACTS);
  for (let i = 0; i < whole.length; i += 1) {
    assert.throws(() => own.readFacts(whole.subarray(0, i), 'a'), /^Error: a: expected a \.tflite of keras-featx export$/);
    const data = Buffer.from(whole);
    data.fill(0xff, i, Math.min(i + 4, data.length));
    try {
      own.readFacts(data, 'a');
    } catch (error) {
      assert.match(error.message, /^a: expected /);
    }
  }
});
