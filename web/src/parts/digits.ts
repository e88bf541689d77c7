// Part 4: the model of the package, sampled in the page: noise becomes digits.
import { classesOf } from "../digits/card.ts";
import type { Engine, State } from "../digits/engine.ts";
import { howBy, labelsOf, taskOf } from "../digits/task.ts";
import { Sheet, visible } from "../draw/sheet.ts";
import { METHODS } from "../maths/samplers.ts";
import { type Allowed, read, settled, write } from "../state.ts";
import { announce, button, calm, choice, el, readings, short, slider } from "../ui.ts";
import { type Again, DEVICES, type Shown, withModel } from "./model.ts";
import type { Open, Text } from "./part.ts";

const COUNTS = { 1: "1", 10: "10", 25: "25" };
const SEED = { min: 0, max: 2 ** 32 - 1, whole: true };
const LEVELS = { min: 2, max: 150, log: true, whole: true };
const GUIDANCE = { min: 1, max: 4 };
const STATES = 12; // on the first one's way
const TITLES = Object.fromEntries(Object.entries(METHODS).map(([name, { title }]) => [name, title]));

export const open: Open = (query) => withModel(TEXT, query, digits);

function digits(engine: Engine, query: URLSearchParams, again: Again): Shown {
  const { card } = engine;
  const { shape, sampling } = card.recipe;
  const names = classesOf(card);
  const own = sampling.sampler in METHODS ? sampling.sampler : "dpmpp-sde";
  const classes = { ...(names.length > 0 ? { each: "Each in turn" } : {}), none: "None told", ...Object.fromEntries(names.map((name, i) => [i, name])) };
  const DEFAULTS = { sampler: own, ...howBy(card, own), label: names.length > 0 ? "each" : "none", count: "10", seed: 0, device: "auto" };
  const ALLOWED: Allowed<typeof DEFAULTS> = {
    sampler: Object.keys(METHODS),
    levels: LEVELS,
    guidance: GUIDANCE,
    label: Object.keys(classes),
    count: Object.keys(COUNTS),
    seed: SEED,
    device: Object.keys(DEVICES),
  };
  const state = read(query, DEFAULTS, ALLOWED);
  if (own !== sampling.sampler) announce(`This page has no sampler ${sampling.sampler}, by which the model draws; it takes ${own}.`);

  const sheet = new Sheet("The images as they are at this noise level", shape);
  const way = new Sheet("The way of the first image from noise, from left to right", shape);
  const numbers = readings({ model: "Model", sigma: "Noise level σ", evaluations: "Evaluations of the network, each", seconds: "Time", by: "Computed by" });
  numbers.say("model", `${shape[0] === 1 ? "grey" : "colour"}, ${shape[1]} × ${shape[2]}, ${names.length === 0 ? "no" : names.length} classes, σ from ${short(sampling.sigma_max)} to ${short(sampling.sigma_min)}`);
  let states: { sigma: number; bytes: Uint8ClampedArray<ArrayBuffer> }[] = [];

  function draw(): void {
    write("digits", state, DEFAULTS);
    states = [];
    numbers.say("by", engine.title);
    numbers.say("sigma", "not yet");
    engine.draw(taskOf(card, state, labelsOf(state.label, Number(state.count), names.length)), heard, (why) => announce(`Drawing has failed: ${why}.`));
  }

  function heard({ sigma, x, evaluations, last, seconds }: State): void {
    states.push({ sigma, bytes: visible(x, sigma) });
    if (calm() && !last) return;
    show(states.length - 1);
    const size = x.length / Number(state.count);
    const most = Math.min(STATES, states.length);
    const chosen = Array.from({ length: most }, (_, i) => Math.round((i * (states.length - 1)) / Math.max(1, most - 1)));
    const strip = new Uint8ClampedArray(STATES * size); // what is still to come is black
    chosen.forEach((at, i) => strip.set(states[at].bytes.subarray(0, size), i * size));
    way.draw(strip, STATES);
    numbers.say("evaluations", String(evaluations));
    numbers.say("seconds", last ? `${seconds.toFixed(2)} s, ${((1000 * seconds) / Number(state.count)).toFixed(0)} ms each` : `${seconds.toFixed(1)} s so far`);
    back.value = 1;
  }

  /** The images at one of the states that there have been. */
  function show(at: number): void {
    const { sigma, bytes } = states[at];
    sheet.draw(bytes, Math.min(5, Math.max(3, Number(state.count))));
    numbers.say("sigma", sigma > 0 ? short(sigma) : "0, denoised");
  }

  const levels = slider("Noise levels", LEVELS, state.levels, (value) => ((state.levels = value), draw()));
  const guidance = slider("Guidance w", { ...GUIDANCE, say: (w) => (w === 1 ? "1, none" : short(w)) }, state.guidance, (value) => ((state.guidance = value), draw()));
  guidance.element.hidden = sampling.guide === "smaller" ? sampling.guidance === 1 : names.length === 0; // nothing to move away from
  const back = slider("Look back on the way", { min: 0, max: 1, say: (share) => `${Math.round(100 * share)} %` }, 1, (share) => {
    if (states.length > 0) show(Math.round(share * (states.length - 1)));
  });
  const controls = [
    el(
      "div",
      { class: "row" },
      button("Draw others", () => {
        state.seed = (state.seed + 1) % 2 ** 32;
        draw();
      }, "primary"),
      button("Draw again", draw),
    ),
    choice("Class", classes, state.label, (label) => ((state.label = label), draw())).element,
    choice("How many", COUNTS, state.count, (count) => ((state.count = count), draw())).element,
    choice("Sampler", TITLES, state.sampler, (sampler) => {
      Object.assign(state, { sampler, ...howBy(card, sampler) });
      [levels.value, guidance.value] = [state.levels, state.guidance];
      draw();
    }).element,
    levels.element,
    guidance.element,
    back.element,
    numbers.element,
    choice("Compute by", DEVICES, state.device, (device) => {
      state.device = device;
      write("digits", state, DEFAULTS);
      again(settled(state, DEFAULTS));
    }).element,
  ];
  draw();
  return { pictures: [sheet.canvas, el("figure", {}, el("figcaption", {}, "From noise to an image, the first one"), way.canvas)], controls };
}

const TEXT: Text = {
  title: "Digits",
  below: "pictures",
  intro:
    "A network has learned the scores of images at every noise level, and is asked for them in this page. That of the package knows MNIST’s digits, told which digit or not, by 1.7 million weights; ncsn play RUN shows a model of your own. Sampling starts from noise at the largest σ, where all images are one blob, and follows the score down.",
  lookFor: [
    "The digit is decided in the middle: at large σ only its mean is seen, around σ = 1 the strokes appear, below 0.1 nothing but their edges changes. This is annealing, section 4 of the paper, with a network for the score.",
    "Annealed Langevin dynamics is the paper’s algorithm 1, and asks the network 201 times; the later samplers follow the same scores down, and need a tenth of that. Take fewer levels, and see which of them breaks first.",
    "No class told: the same network is the score of all digits together (the mixture of section 3.2.2), and every start finds its own.",
    "Guidance w moves away from the score without the class, s + (w − 1)·(s − s without): clearer images, and less of a variety. The slider begins with the weight that held-out images chose.",
    "Noisy states are shown with less contrast, so that twice their noise fits. The same seed draws the same digits, whatever computes them.",
  ],
};
