// Part 4: the packaged model turns noise into digits.
import type { State } from "../digits/engine.ts";
import { howBy, labelsOf, taskOf } from "../digits/task.ts";
import { sheetOf, visible } from "../draw/sheet.ts";
import { METHODS } from "../maths/samplers.ts";
import { SEED, Settings } from "../settings.ts";
import { announce, calm, figure, primary, short, slider } from "../ui.ts";
import { DEVICE, metersOf, withModel } from "./model.ts";

const STATES = 12; // on the first one's way
const TITLES = Object.fromEntries(Object.entries(METHODS).map(([name, { title }]) => [name, title]));

export const open = withModel("digits", (engine, query) => {
  const { card } = engine;
  const { shape, sampling } = card.recipe;
  const { names } = card;
  const classes = Object.fromEntries(names.map((name, i) => [i, name]));
  const all = { ...(names.length > 0 ? { each: "Each in turn" } : {}), none: "Any", ...classes };
  const own = sampling.sampler in METHODS ? sampling.sampler : "dpmpp-sde";
  const wanted = query.get("sampler") ?? own; // which says how many levels, unless the address does
  const how = howBy(card, Object.hasOwn(METHODS, wanted) ? wanted : own);
  const helpless = (): boolean => sampling.guide === "unconditional" && values.label === "none";
  const say = (w: number): string => (helpless() ? "none: “Any” has no class" : w === 1 ? "1, off" : short(w));
  const specification = {
    sampler: { label: "Sampler", value: own, options: TITLES },
    levels: { label: "Noise levels", value: how.levels, min: 2, max: 150, log: true, whole: true },
    guidance: { label: "Guidance weight w ?guidance", value: how.guidance, min: 1, max: 4, say },
    label: { label: "Class", value: names.length > 0 ? "each" : "none", options: all },
    count: { label: "Images", value: "10", options: { 1: "1", 10: "10", 25: "25" } },
    seed: SEED,
    device: DEVICE,
  };
  const settings = new Settings("digits", specification, query);
  const { values } = settings;
  if (own !== sampling.sampler) {
    announce(`This page doesn’t have the model’s sampler, ${sampling.sampler}. It uses ${own} instead.`);
  }
  const sheet = sheetOf("The images at this noise level", shape);
  const way = sheetOf("The first image, from noise on the left to the result on the right", shape);
  const meters = metersOf(engine, { model: "Model" }, {});
  const size = `${shape[1]} × ${shape[2]}, ${names.length === 0 ? "no" : names.length} classes`;
  const range = `σ from ${short(sampling.sigma_max)} to ${short(sampling.sigma_min)}`;
  meters.say("model", `${short(engine.bytes / 1e6)} MB, ${shape[0] === 1 ? "grey" : "colour"}, ${size}, ${range}`);
  let states: { sigma: number; bytes: Uint8ClampedArray }[] = [];

  function draw(): void {
    settings.write();
    states = [];
    meters.begin();
    engine.draw(taskOf(card, values, labelsOf(values.label, Number(values.count), names.length)), heard);
  }

  function heard(state: State): void {
    const { sigma, x, last, seconds } = state;
    const count = Number(values.count);
    states.push({ sigma, bytes: visible(x, sigma) });
    meters.state(state, `${seconds.toFixed(2)} s, ${((1000 * seconds) / count).toFixed(0)} ms per image`);
    if (calm() && !last) return;
    show(states.length - 1);
    const size = x.length / count;
    const most = Math.min(STATES, states.length);
    const columns = last ? most : STATES;
    const strip = new Uint8ClampedArray(columns * size); // what is still to come is black
    for (let i = 0; i < most; i++) {
      const at = Math.round((i * (states.length - 1)) / Math.max(1, most - 1));
      strip.set(states[at].bytes.subarray(0, size), i * size);
    }
    way.draw(strip, columns);
    back.set(1);
  }

  /** The images at one of the past states. */
  function show(at: number): void {
    const { sigma, bytes } = states[at];
    sheet.draw(bytes, Math.min(5, Math.max(3, Number(values.count))));
    meters.level(sigma);
  }

  const guidance = settings.control("guidance", draw);
  guidance.hidden = sampling.guide === "smaller" ? sampling.guidance === 1 : names.length === 0; // nothing to move away from
  const percent = (share: number): string => `${Math.round(100 * share)} % of the way`;
  const back = slider({ label: "Rewind", min: 0, max: 1, say: percent }, 1, (share) => {
    if (states.length > 0) show(Math.round(share * (states.length - 1)));
  });
  const others = primary("New images", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32 });
    draw();
  });
  const sampler = settings.control("sampler", () => {
    settings.set(howBy(card, values.sampler), true);
    draw();
  });
  const controls = [
    others,
    back.element,
    settings.control("label", () => {
      settings.set({ guidance: values.guidance }); // which says so if there is nothing to guide to
      draw();
    }),
    settings.control("count", draw),
    sampler,
    settings.control("levels", draw),
    guidance,
    meters.element,
  ];
  draw();
  const pictures = [meters.bar, sheet.element, figure(["The first image, from noise to the result"], way.element)];
  return { pictures, controls };
});
