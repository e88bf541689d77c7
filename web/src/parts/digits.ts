// Part 4: the model of the package, sampled in the page: noise becomes digits.
import type { State } from "../digits/engine.ts";
import { howBy, labelsOf, taskOf } from "../digits/task.ts";
import { sheetOf, visible } from "../draw/sheet.ts";
import { METHODS } from "../maths/samplers.ts";
import { SEED, Settings } from "../settings.ts";
import { announce, button, calm, figure, primary, row, short, slider } from "../ui.ts";
import { DEVICE, drawingReadings, sayLevel, sayState, withModel } from "./model.ts";

const STATES = 12; // on the first one's way
const TITLES = Object.fromEntries(Object.entries(METHODS).map(([name, { title }]) => [name, title]));

export const open = withModel("digits", (engine, query, again) => {
  const { card } = engine;
  const { shape, sampling } = card.recipe;
  const { names } = card;
  const told = Object.fromEntries(names.map((name, i) => [i, name]));
  const classes = { ...(names.length > 0 ? { each: "Each in turn" } : {}), none: "None told", ...told };
  const own = sampling.sampler in METHODS ? sampling.sampler : "dpmpp-sde";
  const wanted = query.get("sampler") ?? own; // which says how many levels, unless the address does
  const how = howBy(card, Object.hasOwn(METHODS, wanted) ? wanted : own);
  const say = (w: number): string => (w === 1 ? "1, none" : short(w));
  const specification = {
    sampler: { label: "Sampler", value: own, options: TITLES },
    levels: { label: "Noise levels", value: how.levels, min: 2, max: 150, log: true, whole: true },
    guidance: { label: "Guidance w", value: how.guidance, min: 1, max: 4, say },
    label: { label: "Class", value: names.length > 0 ? "each" : "none", options: classes },
    count: { label: "How many", value: "10", options: { 1: "1", 10: "10", 25: "25" } },
    seed: SEED,
    device: DEVICE,
  };
  const settings = new Settings("digits", specification, query);
  const { values } = settings;
  if (own !== sampling.sampler) {
    announce(`This page has no sampler ${sampling.sampler}, by which the model draws; it takes ${own}.`);
  }
  const sheet = sheetOf("The images as they are at this noise level", shape);
  const way = sheetOf("The way of the first image from noise, from left to right", shape);
  const numbers = drawingReadings(engine, { model: "Model" }, {});
  const size = `${shape[1]} × ${shape[2]}, ${names.length === 0 ? "no" : names.length} classes`;
  const range = `σ from ${short(sampling.sigma_max)} to ${short(sampling.sigma_min)}`;
  numbers.say("model", `${shape[0] === 1 ? "grey" : "colour"}, ${size}, ${range}`);
  let states: { sigma: number; bytes: Uint8ClampedArray }[] = [];

  function draw(): void {
    settings.write();
    states = [];
    numbers.say("sigma", "not yet");
    engine.draw(taskOf(card, values, labelsOf(values.label, Number(values.count), names.length)), heard);
  }

  function heard(state: State): void {
    const { sigma, x, last, seconds } = state;
    states.push({ sigma, bytes: visible(x, sigma) });
    if (calm() && !last) return;
    show(states.length - 1);
    const count = Number(values.count);
    const size = x.length / count;
    const most = Math.min(STATES, states.length);
    const strip = new Uint8ClampedArray(STATES * size); // what is still to come is black
    for (let i = 0; i < most; i++) {
      const at = Math.round((i * (states.length - 1)) / Math.max(1, most - 1));
      strip.set(states[at].bytes.subarray(0, size), i * size);
    }
    way.draw(strip, STATES);
    sayState(numbers, state, `${seconds.toFixed(2)} s, ${((1000 * seconds) / count).toFixed(0)} ms each`);
    back.set(1);
  }

  /** The images at one of the states that there have been. */
  function show(at: number): void {
    const { sigma, bytes } = states[at];
    sheet.draw(bytes, Math.min(5, Math.max(3, Number(values.count))));
    sayLevel(numbers, sigma);
  }

  const guidance = settings.control("guidance", draw);
  guidance.hidden = sampling.guide === "smaller" ? sampling.guidance === 1 : names.length === 0; // nothing to move away from
  const percent = (share: number): string => `${Math.round(100 * share)} %`;
  const back = slider({ label: "Look back on the way", min: 0, max: 1, say: percent }, 1, (share) => {
    if (states.length > 0) show(Math.round(share * (states.length - 1)));
  });
  const others = primary("Draw others", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32 });
    draw();
  });
  const sampler = settings.control("sampler", () => {
    settings.set(howBy(card, values.sampler), true);
    draw();
  });
  const controls = [
    row(others, button("Draw again", draw)),
    settings.control("label", draw),
    settings.control("count", draw),
    sampler,
    settings.control("levels", draw),
    guidance,
    back.element,
    numbers.element,
    settings.control("device", () => again(settings.query)),
  ];
  draw();
  return { pictures: [sheet.element, figure(["From noise to an image, the first one"], way.element)], controls };
});
