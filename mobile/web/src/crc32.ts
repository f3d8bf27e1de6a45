const table = Uint32Array.from({ length: 256 }, (_, i) => {
  let value = i;
  for (let bit = 0; bit < 8; bit += 1) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  return value;
});

/** CRC-32, as zlib and ZIP have it. */
export function crc32(data: Uint8Array): number {
  let crc = ~0;
  for (let i = 0; i < data.length; i += 1) crc = (crc >>> 8) ^ table[(crc ^ data[i]!) & 255]!;
  return ~crc >>> 0;
}
