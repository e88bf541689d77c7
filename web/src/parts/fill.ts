// Part 5: fills in the hidden part of a picture: nine answers, their mean and their spread.
import type { State } from "../digits/engine.ts";
import { Picture, REGIONS, type Tool, WRITTEN, moments } from "../digits/picture.ts";
import { howBy, labelsOf, taskOf } from "../digits/task.ts";
import { quantize, sheetOf, visible } from "../draw/sheet.ts";
import { SEED, Settings } from "../settings.ts";
import { ladder } from "../maths/samplers.ts";
import { announce, button, calm, choice, el, figure, primary, row, short } from "../ui.ts";
import { editorOf } from "./editor.ts";
import { DEVICE, metersOf, withModel } from "./model.ts";

const ANSWERS = 9;
const COLUMNS = 3;
// The best of the steps that were tried on MNIST for half the evaluations of a sample.
const FINEST = 0.1; // the smallest noise level
const STEP = 1.6; // α/σ²; steps diverge from 4 on
const TOOLS: Record<Tool, string> = { look: "Nothing: swiping scrolls", hide: "Hides", ink: "Draws", blank: "Erases" };
const SETTINGS = {
  from: { value: "digit", options: { digit: "A digit", blank: "A blank page" } },
  hide: { label: "Hide", value: "bottom", options: REGIONS },
  picture: { value: "", pattern: WRITTEN },
  levels: { label: "Noise levels", value: 50, min: 10, max: 200, log: true, whole: true },
  seed: SEED,
  round: SEED, // which nine answers
  device: DEVICE,
};

export const open = withModel("fill", (engine, query, signal) => {
  const { card } = engine;
  const { shape } = card.recipe;
  const settings = new Settings("fill", SETTINGS, query);
  const { values } = settings;
  const written = Picture.read(shape, values.picture);
  if (!written && values.picture !== "") announce("The picture in this link has a different size and was ignored.");
  let picture = written ?? new Picture(shape);
  let past: string[] = []; // pictures before each change
  let tool: Tool = values.from === "blank" ? "ink" : "hide";
  if (matchMedia("(pointer: coarse)").matches) tool = "look"; // so that a swipe scrolls
  let drawing = false; // the model draws the picture to begin with, which nothing may interrupt

  const answers = sheetOf("Nine answers", shape);
  const mean = sheetOf("Their mean", shape);
  const spread = sheetOf("Their standard deviation, white where it is largest", shape);
  const meters = metersOf(engine, {}, { spread: "Largest spread, drawn white" });
  const takes = (): boolean => !drawing && tool !== "look";
  const editor = editorOf(picture, { takes, begin: remember, mark, changed: () => show(picture) }, signal);

  /** The initial picture: a sample of the model, or a blank page. */
  function begin(): void {
    drawing = values.from === "digit";
    if (!drawing) return start(new Picture(shape));
    const classes = card.names.length;
    const labels = labelsOf(classes > 0 ? String(values.seed % classes) : "none", 1, classes);
    const how = { sampler: "dpmpp-sde", ...howBy(card, "dpmpp-sde"), seed: values.seed };
    meters.begin();
    engine.draw(taskOf(card, how, labels), ({ x, last }) => {
      if (last) start(Picture.of(shape, x));
    });
  }

  function start(beginning: Picture): void {
    drawing = false;
    beginning.hide(values.hide, values.seed);
    past = [];
    show(beginning, "");
  }

  /** Shows another picture and fills it in; ``address`` is its encoding. */
  function show(other: Picture, address = other.write()): void {
    picture = other;
    editor.show(picture);
    undo.disabled = past.length === 0;
    settings.set({ picture: address, round: 0 });
    answer();
  }

  function remember(): void {
    past.push(picture.write());
  }

  function mark(row: number, column: number): void {
    if (tool !== "look") picture.mark(tool, row, column);
  }

  function answer(): void {
    settings.write();
    if (drawing) return;
    meters.begin();
    if (!picture.anyHidden) {
      engine.rest();
      return announce("Hide a part of the picture first, so that the model can fill it in.");
    }
    const seed = (values.seed + Math.imul(values.round, 0x9e3779b1)) >>> 0;
    const finest = Math.max(card.recipe.sampling.sigma_min, FINEST);
    const task = {
      ...taskOf(card, { sampler: "annealed", levels: 2, guidance: 1, seed }, labelsOf("none", ANSWERS, 0)),
      levels: ladder("geometric", card.recipe.sampling.sigma_max, finest, values.levels),
      steps: 2,
      eps: STEP * finest ** 2,
      given: picture.given,
    };
    engine.draw(task, heard);
  }

  function heard(state: State): void {
    const { sigma, x, last, seconds } = state;
    meters.state(state, `${seconds.toFixed(1)} s`);
    if (calm() && !last) return;
    answers.draw(visible(x, sigma), COLUMNS);
    const { mean: middle, std } = moments(x, ANSWERS);
    const most = std.reduce((a, b) => Math.max(a, b), 0);
    mean.draw(visible(Float32Array.from(middle), sigma / Math.sqrt(ANSWERS)), 1);
    spread.draw(quantize(std.map((value) => value / Math.max(most, 1e-6))), 1);
    meters.level(sigma);
    meters.say("spread", short(most));
  }

  const pointer = choice({ label: "The pointer", options: TOOLS }, tool, (name) => (tool = name as Tool));
  const undo = button("Undo", () => {
    const before = Picture.read(shape, past.pop() ?? "");
    if (before && !drawing) show(before);
  });
  undo.disabled = true;
  const another = primary("New image", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32, from: "digit" });
    begin();
  });
  const blank = button("Blank page", () => {
    settings.set({ from: "blank" });
    tool = "ink";
    pointer.set(tool);
    begin();
  });
  const others = button("New answers", () => {
    settings.set({ round: (values.round + 1) % 2 ** 32 });
    answer();
  });
  const hide = settings.control("hide", () => {
    if (drawing) return;
    remember();
    picture.hide(values.hide, values.seed);
    show(picture);
  });
  const controls = [row(another, blank, others), hide, settings.control("levels", answer), meters.element];
  const pictures = [
    row(pointer.element, undo),
    meters.bar,
    el("div", { class: "pair" }, figure(["The picture"], editor.element), figure(["Nine answers"], answers.element)),
    el("div", { class: "side" }, figure(["Their mean"], mean.element), figure(["Their spread"], spread.element)),
  ];
  if (written) answer();
  else begin();
  return { pictures, controls };
});
