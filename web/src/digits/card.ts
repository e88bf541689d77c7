// What a file that `ncsn export` wrote says of itself: JSON in its metadata, under "ncsn".

export type Shape = readonly [channels: number, height: number, width: number];

/** How many numbers an image has. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1);

export interface Card {
  format: number;
  recipe: {
    shape: Shape;
    sampling: {
      sigma_max: number;
      sigma_min: number;
      sampler: string;
      steps: number;
      eps: number;
      guidance: number;
      guided_between: [low: number, high: number];
      guide: "smaller" | "unconditional";
    };
  };
  levels: number[];
  /** Of the classes, in their order. */
  names: string[];
}

const NO_FILE = new Error("the model is no ONNX file");
const FORMAT = 1;
const LENGTHS: Record<number, number> = { 0: 0, 1: 8, 5: 4 }; // of protobuf's kinds of fields
const METADATA = 14; // the field's number in ONNX's ModelProto: pairs of key (1) and value (2)

/** Raises an error for what is no such file, or not of images. */
export function read(file: Uint8Array): Card {
  const card = JSON.parse(metadata(file).get("ncsn") ?? "null") as Card | null;
  if (!card) throw new Error("the model was not written by ncsn export");
  if (card.format !== FORMAT) throw new Error(`the model’s format is ${card.format}; this page reads format ${FORMAT}`);
  const { shape } = card.recipe;
  if (shape.length !== 3 || ![1, 3].includes(shape[0]))
    throw new Error(`the model’s shape is ${shape.join(" × ")}; images, grey or in three colours, are needed`);
  return card;
}

function metadata(file: Uint8Array): Map<string, string> {
  const text = new TextDecoder();
  const pairs = [...fields(file)]
    .filter(([field]) => field === METADATA)
    .map(([, content]) => new Map(fields(content)));
  return new Map(pairs.map((pair) => [text.decode(pair.get(1)), text.decode(pair.get(2))]));
}

/** The fields of a protobuf message, by their numbers; of those that have a length, the bytes. */
function* fields(bytes: Uint8Array): Generator<[field: number, content: Uint8Array]> {
  let at = 0;
  const varint = (): number => {
    for (let [value, factor] = [0, 1]; at < bytes.length; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw NO_FILE;
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    const length = kind === 2 ? varint() : (LENGTHS[kind] ?? Infinity);
    if (at + length > bytes.length) throw NO_FILE;
    if (kind === 0) varint();
    if (kind === 2) yield [tag >>> 3, bytes.subarray(at, at + length)];
    at += length;
  }
}
