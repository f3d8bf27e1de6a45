import type { Preprocess } from './facts';
import { Refused } from './refused';
import type { Pixels } from './resize';
import { halfToEven } from './rounding';

const MOST_PIXELS = 100_000_000;
// Read back at a time, within what every graphics library takes.
const [PART_WIDTH, PART_PIXELS] = [2048, 2 ** 20];
// Colours and orientation: as they are stored, upright.
const OPTIONS: ImageBitmapOptions = {
  premultiplyAlpha: 'none',
  colorSpaceConversion: 'none',
  imageOrientation: 'from-image',
};

/** Decodes a picture, upright and laid over the background; `name` is what messages call it. */
export async function decode(
  picture: Blob,
  background: Preprocess['background'],
  name: string,
): Promise<Pixels> {
  let bitmap;
  try {
    bitmap = await createImageBitmap(picture, OPTIONS);
  } catch {
    throw new Refused(`${name}: expected a picture that can be decoded`);
  }
  try {
    const { height, width } = bitmap;
    if (height * width > MOST_PIXELS) {
      const [most, got] = [MOST_PIXELS, height * width].map((pixels) => pixels.toLocaleString('en-US'));
      throw new Refused(`${name}: expected at most ${most} pixels, got ${got}`);
    }
    return await pixelsOf(bitmap, background);
  } finally {
    bitmap.close();
  }
}

/** What a camera shows now. */
export function frameOf(video: HTMLVideoElement): Pixels {
  const { videoHeight: height, videoWidth: width } = video;
  const image = { height, width, data: new Uint8Array(3 * height * width) };
  lay(byCanvas(video, 0, 0, width, height), image, 0, 0, width, null);
  return image;
}

async function pixelsOf(bitmap: ImageBitmap, background: Preprocess['background']): Promise<Pixels> {
  const { height, width } = bitmap;
  const image = { height, width, data: new Uint8Array(3 * height * width) };
  for (let left = 0; left < width; left += PART_WIDTH) {
    const wide = Math.min(PART_WIDTH, width - left);
    const rows = Math.floor(PART_PIXELS / wide);
    for (let top = 0; top < height; top += rows) {
      const high = Math.min(rows, height - top);
      const part = await createImageBitmap(bitmap, left, top, wide, high, OPTIONS);
      lay(byTexture(part) ?? byCanvas(bitmap, left, top, wide, high), image, top, left, wide, background);
      part.close();
    }
  }
  return image;
}

/** Puts red, green, blue and opacity of a part into its place, over the background if there is one. */
function lay(
  part: Uint8Array | Uint8ClampedArray,
  image: Pixels,
  top: number,
  left: number,
  width: number,
  background: Preprocess['background'],
): void {
  const f = Math.fround;
  for (let i = 0; i < part.length / 4; i += 1) {
    const at = 3 * (image.width * (top + Math.floor(i / width)) + left + (i % width));
    const absent = f((255 - part[4 * i + 3]!) / 255);
    for (let c = 0; c < 3; c += 1) {
      const colour = part[4 * i + c]!;
      image.data[at + c] =
        background === null || absent === 0
          ? colour
          : halfToEven(f(colour + f(f(f(background[c]!) - colour) * absent)));
    }
  }
}

let gl: WebGL2RenderingContext | null | undefined;

/** By the graphics library, as a canvas loses the colours of what is not opaque; if there is one. */
function byTexture(bitmap: ImageBitmap): Uint8Array | undefined {
  gl ??= new OffscreenCanvas(1, 1).getContext('webgl2');
  if (!gl || gl.isContextLost()) return undefined;
  const { height, width } = bitmap;
  const texture = gl.createTexture();
  const frame = gl.createFramebuffer();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(4 * height * width);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.deleteFramebuffer(frame);
  gl.deleteTexture(texture);
  return gl.getError() === gl.NO_ERROR ? data : undefined;
}

function byCanvas(source: CanvasImageSource, left: number, top: number, width: number, height: number) {
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true })!;
  context.drawImage(source, left, top, width, height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}
