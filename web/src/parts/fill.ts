// Part 5: what is hidden of a picture is filled in: nine answers, their mean and their spread.
import { classesOf } from "../digits/card.ts";
import type { Engine, State } from "../digits/engine.ts";
import { Picture, REGIONS, type Tool, WRITTEN, moments } from "../digits/picture.ts";
import { howBy, labelsOf, taskOf } from "../digits/task.ts";
import { Sheet, quantize, visible } from "../draw/sheet.ts";
import { type Allowed, read, settled, write } from "../state.ts";
import { announce, button, calm, choice, el, readings, short, slider } from "../ui.ts";
import { Editor } from "./editor.ts";
import { type Again, DEVICES, type Shown, withModel } from "./model.ts";
import type { Open, Text } from "./part.ts";

const ANSWERS = 9;
const COLUMNS = 3;
const SEED = { min: 0, max: 2 ** 32 - 1, whole: true };
const LEVELS = { min: 10, max: 200, log: true, whole: true };
const STARTS = { drawn: "a digit that the model draws", blank: "a blank page" };
const TOOLS: Record<Tool, string> = { hide: "Hides", ink: "Draws", blank: "Erases" };
const DEFAULTS = { from: "drawn", hide: "bottom", picture: "", levels: 100, seed: 0, device: "auto" };
const ALLOWED: Allowed<typeof DEFAULTS> = {
  from: Object.keys(STARTS),
  hide: Object.keys(REGIONS),
  picture: WRITTEN,
  levels: LEVELS,
  seed: SEED,
  device: Object.keys(DEVICES),
};

export const open: Open = (query) => withModel(TEXT, query, fill);

function fill(engine: Engine, query: URLSearchParams, again: Again): Shown {
  const { card } = engine;
  const { shape } = card.recipe;
  const state = read(query, DEFAULTS, ALLOWED);
  const written = Picture.read(shape, state.picture);
  if (!written && state.picture !== "") announce("The address has a picture of another size, which was left out.");
  let picture = written ?? new Picture(shape);
  let whole = new Picture(shape, picture.codes.slice()); // with what is hidden, as far as that is known

  const answers = new Sheet("Nine answers", shape);
  const mean = new Sheet("Their mean", shape);
  const spread = new Sheet("Their standard deviation, white where it is largest", shape);
  const numbers = readings({ sigma: "Noise level σ", evaluations: "Evaluations of the network, each", seconds: "Time", spread: "Largest standard deviation", by: "Computed by" });
  const editor = new Editor(picture, mark, changed);
  const failed = (why: string): void => announce(`Drawing has failed: ${why}.`);
  numbers.say("by", engine.title);

  /** A picture to begin with: one that the model draws, or a blank page. */
  function begin(): void {
    if (state.from === "blank") {
      whole = new Picture(shape);
      return hide();
    }
    const classes = classesOf(card).length;
    const labels = labelsOf(classes > 0 ? String(state.seed % classes) : "none", 1, classes);
    const own = howBy(card, "dpmpp-sde");
    engine.draw(taskOf(card, { sampler: "dpmpp-sde", ...own, seed: state.seed }, labels), ({ x, last }) => {
      if (!last) return;
      whole = Picture.of(shape, x);
      hide();
    }, failed);
  }

  function hide(): void {
    picture = new Picture(shape, whole.codes.slice());
    picture.hide(state.hide, state.seed);
    state.picture = "";
    editor.show(picture);
    answer();
  }

  function mark(row: number, column: number): void {
    picture.mark(tool.value as Tool, row, column);
    if (tool.value !== "hide") whole.mark(tool.value as Tool, row, column);
  }

  /** The picture has been drawn on. */
  function changed(): void {
    state.picture = picture.write();
    answer();
  }

  function answer(): void {
    write("fill", state, DEFAULTS);
    numbers.say("sigma", "not yet");
    if (!picture.anyHidden) {
      engine.rest();
      return announce("Nothing is hidden: there is nothing to fill in.");
    }
    const how = { sampler: "annealed", levels: state.levels, guidance: 1, seed: state.seed };
    const task = { ...taskOf(card, how, labelsOf("none", ANSWERS, 0)), given: picture.given };
    engine.draw(task, heard, failed);
  }

  function heard({ sigma, x, evaluations, last, seconds }: State): void {
    if (calm() && !last) return;
    answers.draw(visible(x, sigma), COLUMNS);
    const found = moments(x, ANSWERS);
    const most = found.std.reduce((a, b) => Math.max(a, b), 0);
    mean.draw(visible(Float32Array.from(found.mean), sigma / Math.sqrt(ANSWERS)), 1);
    spread.draw(quantize(found.std.map((value) => value / Math.max(most, 1e-6))), 1);
    numbers.say("sigma", sigma > 0 ? short(sigma) : "0, denoised");
    numbers.say("evaluations", String(evaluations));
    numbers.say("seconds", last ? `${seconds.toFixed(1)} s` : `${seconds.toFixed(1)} s so far`);
    numbers.say("spread", short(most));
  }

  const tool = choice("The pointer", TOOLS, "hide", () => {});
  const from = choice("Begin with", STARTS, state.from, (name) => {
    state.from = name;
    tool.value = name === "blank" ? "ink" : "hide";
    begin();
  });
  const controls = [
    el("div", { class: "row" }, another(), button("Answer again", answer)),
    tool.element,
    choice("Hidden", REGIONS, state.hide, (region) => ((state.hide = region), hide())).element,
    from.element,
    slider("Noise levels", LEVELS, state.levels, (levels) => ((state.levels = levels), answer())).element,
    numbers.element,
    choice("Compute by", DEVICES, state.device, (device) => {
      state.device = device;
      write("fill", state, DEFAULTS);
      again(settled(state, DEFAULTS));
    }).element,
  ];
  if (written) answer();
  else begin();
  return { pictures: pictures(), controls, stop: () => editor.stop() };

  function another(): HTMLElement {
    return button("Another picture", () => {
      state.seed = (state.seed + 1) % 2 ** 32;
      from.value = state.from = "drawn";
      begin();
    }, "primary");
  }

  function pictures(): Node[] {
    const titled = (title: string, canvas: HTMLElement): HTMLElement => el("figure", {}, el("figcaption", {}, title), canvas);
    const keys = el("p", { class: "hint", id: "keys" }, "Draw on the picture; hatched pixels are hidden. By keys: arrows move a cursor, with Shift in larger steps, and Space makes a mark.");
    return [
      el("div", { class: "pair" }, titled("The picture", editor.stage.canvas), titled("Nine answers", answers.canvas)),
      el("div", { class: "side" }, titled("Their mean", mean.canvas), titled("Their spread", spread.canvas)),
      keys,
    ];
  }
}

const TEXT: Text = {
  title: "Fill in",
  below: "controls",
  intro:
    "The same network, asked what belongs where a picture is hidden: inpainting as in the paper’s appendix B.3. At every step of annealed Langevin dynamics the known pixels are replaced by the picture with fresh noise of the level, and the others follow the score. Erase part of a digit, or draw half of one on a blank page.",
  lookFor: [
    "Nine answers, and not one: what is known leaves open what the digit is, and sampling shows how far. An upper half that could be 7 or 9 becomes both; a loop that is nearly closed, only one.",
    "The mean is no digit but the best guess pixel by pixel; the spread says where the answers differ: zero where the picture is known, and most where strokes could be.",
    "The network was never trained for this: a score of all digits, and any question put to it (section 5 of the paper, figure 6).",
    "The answers agree on what is decided at large σ first, and part on the way down. With few noise levels the hidden part has no time to come to terms with the known one: strokes break at the border.",
    "No digit is told here, and nothing guides: both would no longer be the score of what may have been there.",
  ],
};
