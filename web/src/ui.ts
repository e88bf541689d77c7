// The elements that the parts are made of.

type Child = Node | string;

/** An element with attributes and children. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const row = (...children: Child[]): HTMLElement => el("div", { class: "row" }, ...children);

/** A picture under its caption. */
export const figure = (caption: Child[], picture: HTMLElement): HTMLElement =>
  el("figure", {}, el("figcaption", {}, ...caption), picture);

/** A control whose value can be set without an event. */
export interface Control<T> {
  element: HTMLElement;
  set(value: T): void;
}

export interface Range {
  label?: string;
  min: number;
  max: number;
  /** In equal steps of the logarithm. */
  log?: boolean;
  /** Whole numbers only. */
  whole?: boolean;
  /** How a value is displayed; by default, as it is. */
  say?: (value: number) => string;
}

export interface Choice {
  label?: string;
  /** Titles by names. */
  options: Record<string, string>;
}

const STEPS = 400;
let count = 0;

/** Formats a number with three digits, without trailing zeros. */
export function short(value: number): string {
  const size = Math.abs(value);
  const text = size >= 1e5 || (size < 1e-3 && size > 0) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

/** Text in which _σ and _L are subscripts; ?name at its end adds a button that explains (index.html). */
function words(text: string): { words: Child[]; about: Child[] } {
  const [plain, about] = text.split(" ?");
  const words = plain.split(/(_[σL])/).map((piece) => (piece.startsWith("_") ? el("sub", {}, piece.slice(1)) : piece));
  if (!about) return { words, about: [] };
  const attributes = {
    type: "button",
    class: "about",
    popovertarget: `about-${about}`,
    "aria-label": `About ${plain}`,
  };
  return { words, about: [el("button", attributes, "?")] };
}

/** A slider with its label and value. */
export function slider(range: Range, value: number, changed: (value: number) => void): Control<number> {
  const { label = "", min, max, log, whole, say = short } = range;
  const id = `control-${++count}`;
  const steps = whole && !log ? max - min : STEPS;
  const input = el("input", { type: "range", id, max: String(steps) });
  const output = el("output", { for: id });
  const display = (number: number): void => {
    output.value = say(number);
    input.setAttribute("aria-valuetext", output.value);
  };
  const set = (number: number): void => {
    const share = log ? Math.log(number / min) / Math.log(max / min) : (number - min) / (max - min);
    input.value = String(Math.round(share * steps));
    display(number); // which need not be one of the slider's places
  };
  set(value);
  input.addEventListener("input", () => {
    const share = input.valueAsNumber / steps;
    const exact = log ? min * (max / min) ** share : min + share * (max - min);
    const number = whole ? Math.round(exact) : Number(exact.toPrecision(3));
    display(number);
    changed(number);
  });
  const { words: name, about } = words(label);
  return { element: el("div", { class: "control" }, el("label", { for: id }, ...name), ...about, output, input), set };
}

/** One of several, by name. */
export function choice(
  { label = "", options }: Choice,
  value: string,
  changed: (value: string) => void,
): Control<string> {
  const id = `control-${++count}`;
  const titles = Object.entries(options).map(([name, title]) => el("option", { value: name }, title));
  const select = el("select", { id }, ...titles);
  select.value = value;
  select.addEventListener("change", () => changed(select.value));
  const set = (name: string): void => void (select.value = name);
  return { element: el("div", { class: "control" }, el("label", { for: id }, label), select), set };
}

export function button(label: string, pressed: () => void, kind = ""): HTMLButtonElement {
  const element = el("button", { type: "button", class: kind }, label);
  element.addEventListener("click", pressed);
  return element;
}

/** The main button of a part. */
export const primary = (label: string, pressed: () => void): HTMLButtonElement => button(label, pressed, "primary");

/** A table of named numbers, and a function that sets one. */
export function readings(names: Record<string, string>) {
  const cells = Object.fromEntries(Object.keys(names).map((name) => [name, el("dd", { "data-reading": name })]));
  const rows = Object.entries(names).map(([name, title]) => {
    const { words: text, about } = words(title);
    return el("div", {}, el("dt", {}, ...text, " ", ...about), cells[name]);
  });
  const say = (name: string, value: string): void => {
    if (cells[name].textContent !== value) cells[name].textContent = value;
  };
  return { element: el("dl", { class: "readings" }, ...rows), say };
}

let clearing = 0;

/** Shows a message for a while, and announces it to screen readers. */
export function announce(message: string): void {
  tell(message, "status");
  clearTimeout(clearing);
  clearing = setTimeout(() => tell("", "status"), 8000);
}

/** Announces to screen readers what others can see. */
export function tell(message: string, place = "heard"): void {
  const element = document.getElementById(place);
  if (element) element.textContent = message;
}

/** Whether the system asks for reduced motion. */
export const calm = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;
