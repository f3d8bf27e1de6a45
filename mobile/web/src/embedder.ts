import { type CompiledModel, getGlobalLiteRtPromise, loadAndCompile, loadLiteRt, Tensor } from '@litertjs/core';
import { type Facts, readFacts } from './facts';
import { Refused } from './refused';
import { type Pixels, prepare } from './resize';

/** A model that is ready to embed. */
export interface Embedder {
  facts: Facts;
  height: number;
  width: number;
  size: number;
  /** Embeds an upright picture of any size: a vector of norm 1. */
  embed(image: Pixels): Promise<Float32Array>;
  /** Frees its memory, after what is under way. */
  close(): Promise<void>;
}

/** Opens a `.tflite` of keras-featx export; `name` is what messages call it. */
export async function openEmbedder(file: Uint8Array, name: string): Promise<Embedder> {
  const facts = readFacts(file, name);
  await runtime();
  let model: CompiledModel;
  try {
    model = await loadAndCompile(file, { accelerator: 'wasm' });
  } catch {
    throw new Refused(`${name}: expected a model that can be opened`);
  }
  const [input] = model.getInputDetails();
  const output = model.getOutputDetails().find((one) => one.name === 'embedding');
  const [batch, height, width, channels] = input?.shape ?? [];
  const [rows, size] = output?.shape ?? [];
  const isInput = input?.dtype === 'uint8' && batch === 1 && height && width && channels === 3;
  const isOutput = output?.dtype === 'float32' && rows === 1 && size && output.shape.length === 2;
  if (!isInput || !isOutput) {
    model.delete();
    throw new Refused(
      `${name}: expected uint8 (1, height, width, 3) in and float32 (1, size) out, got ` +
        `${input?.dtype} (${input?.shape?.join(', ')}) and ${output?.dtype} (${output?.shape?.join(', ')})`,
    );
  }
  const short = facts.preprocess.resize === 'crop' ? facts.preprocess.resize_short : null;
  if (short !== null && short < Math.max(height, width)) {
    model.delete();
    throw new Refused(`${name}: expected a resize_short of at least ${Math.max(height, width)}, got ${short}`);
  }
  const run = async (pixels: Uint8Array<ArrayBuffer>) => {
    const tensor = new Tensor(pixels, [1, height, width, 3]);
    const results = await model.run({ [input.name]: tensor });
    const embedding = Float32Array.from(results['embedding']!.toTypedArray());
    for (const one of [tensor, ...Object.values(results)]) one.delete();
    return embedding;
  };
  // One at a time.
  let last: Promise<unknown> = Promise.resolve();
  const embed = (image: Pixels) => {
    const made = last.then(() => run(prepare(image, height, width, facts.preprocess).data));
    last = made.catch(() => undefined);
    return made;
  };
  return { facts, height, width, size, embed, close: () => last.then(() => model.delete()) };
}

/** Loads LiteRT from beside the page, once. */
function runtime(): Promise<unknown> {
  const loading = getGlobalLiteRtPromise();
  if (loading) return loading;
  // Its notes on what it loads would all be errors on the console.
  Object.assign(self, { Module: { printErr: () => undefined } });
  return loadLiteRt(new URL('wasm/', document.baseURI).href);
}
