// Part 5: what is hidden of a picture is filled in: nine answers, their mean and their spread.
import type { State } from "../digits/engine.ts";
import { Picture, REGIONS, type Tool, WRITTEN, moments } from "../digits/picture.ts";
import { howBy, labelsOf, taskOf } from "../digits/task.ts";
import { quantize, sheetOf, visible } from "../draw/sheet.ts";
import { SEED, Settings } from "../settings.ts";
import { announce, button, calm, choice, el, figure, primary, row, short } from "../ui.ts";
import { editorOf } from "./editor.ts";
import { DEVICE, drawingReadings, sayState, withModel } from "./model.ts";

const ANSWERS = 9;
const COLUMNS = 3;
const STARTS = { drawn: "a digit that the model draws", blank: "a blank page" };
const TOOLS: Record<Tool, string> = { hide: "Hides", ink: "Draws", blank: "Erases" };
const SETTINGS = {
  from: { label: "Begin with", value: "drawn", options: STARTS },
  hide: { label: "Hidden", value: "bottom", options: REGIONS },
  picture: { value: "", pattern: WRITTEN },
  levels: { label: "Noise levels", value: 100, min: 10, max: 200, log: true, whole: true },
  seed: SEED,
  round: SEED, // which nine answers
  device: DEVICE,
};

export const open = withModel("fill", (engine, query, again, signal) => {
  const { card } = engine;
  const { shape } = card.recipe;
  const settings = new Settings("fill", SETTINGS, query);
  const { values } = settings;
  const written = Picture.read(shape, values.picture);
  if (!written && values.picture !== "") announce("The address has a picture of another size, which was left out.");
  let picture = written ?? new Picture(shape);
  let whole = picture.copy(); // with what is hidden, as far as that is known
  let tool: Tool = "hide";
  let drawing = false; // the model draws the picture to begin with, which nothing may interrupt

  const answers = sheetOf("Nine answers", shape);
  const mean = sheetOf("Their mean", shape);
  const spread = sheetOf("Their standard deviation, white where it is largest", shape);
  const numbers = drawingReadings(engine, {}, { spread: "Largest standard deviation" });
  const editor = editorOf(picture, mark, changed, signal);

  /** A picture to begin with: one that the model draws, or a blank page. */
  function begin(): void {
    drawing = values.from === "drawn";
    if (!drawing) return start(new Picture(shape));
    const classes = card.names.length;
    const labels = labelsOf(classes > 0 ? String(values.seed % classes) : "none", 1, classes);
    const how = { sampler: "dpmpp-sde", ...howBy(card, "dpmpp-sde"), seed: values.seed };
    engine.draw(taskOf(card, how, labels), ({ x, last }) => {
      if (last) start(Picture.of(shape, x));
    });
  }

  function start(beginning: Picture): void {
    whole = beginning;
    drawing = false;
    hide();
  }

  function hide(): void {
    if (drawing) return;
    picture = whole.copy();
    picture.hide(values.hide, values.seed);
    settings.set({ picture: "", round: 0 });
    editor.show(picture);
    answer();
  }

  function mark(row: number, column: number): void {
    if (drawing) return;
    picture.mark(tool, row, column);
    if (tool !== "hide") whole.mark(tool, row, column);
  }

  /** The picture has been drawn on. */
  function changed(): void {
    if (drawing) return;
    settings.set({ picture: picture.write() });
    answer();
  }

  function answer(): void {
    settings.write();
    if (drawing) return;
    numbers.say("sigma", "not yet");
    if (!picture.anyHidden) {
      engine.rest();
      return announce("Nothing is hidden: there is nothing to fill in.");
    }
    const seed = (values.seed + Math.imul(values.round, 0x9e3779b1)) >>> 0;
    const how = { sampler: "annealed", levels: values.levels, guidance: 1, seed };
    engine.draw({ ...taskOf(card, how, labelsOf("none", ANSWERS, 0)), given: picture.given }, heard);
  }

  function heard(state: State): void {
    const { sigma, x, last, seconds } = state;
    if (calm() && !last) return;
    answers.draw(visible(x, sigma), COLUMNS);
    const { mean: middle, std } = moments(x, ANSWERS);
    const most = std.reduce((a, b) => Math.max(a, b), 0);
    mean.draw(visible(Float32Array.from(middle), sigma / Math.sqrt(ANSWERS)), 1);
    spread.draw(quantize(std.map((value) => value / Math.max(most, 1e-6))), 1);
    sayState(numbers, state, `${seconds.toFixed(1)} s`);
    numbers.say("spread", short(most));
  }

  const pointer = choice({ label: "The pointer", options: TOOLS }, tool, (name) => (tool = name as Tool));
  const from = settings.control("from", () => {
    tool = values.from === "blank" ? "ink" : "hide";
    pointer.set(tool);
    begin();
  });
  const another = primary("Another picture", () => {
    settings.set({ seed: (values.seed + 1) % 2 ** 32, from: "drawn" });
    begin();
  });
  const others = button("Answer again", () => {
    settings.set({ round: (values.round + 1) % 2 ** 32 });
    answer();
  });
  const controls = [
    row(another, others),
    pointer.element,
    settings.control("hide", hide),
    from,
    settings.control("levels", answer),
    numbers.element,
    settings.control("device", () => again(settings.query)),
  ];
  const pictures = [
    el("div", { class: "pair" }, figure(["The picture"], editor.element), figure(["Nine answers"], answers.element)),
    el("div", { class: "side" }, figure(["Their mean"], mean.element), figure(["Their spread"], spread.element)),
  ];
  if (written) answer();
  else begin();
  return { pictures, controls };
});
