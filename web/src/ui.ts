// The few kinds of elements that the parts are made of.

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

/** A control: its element, and its value, which can be set without telling anybody. */
export interface Control<T> {
  element: HTMLElement;
  value: T;
}

export interface Range {
  min: number;
  max: number;
  /** In equal steps of the logarithm. */
  log?: boolean;
  /** Whole numbers only. */
  whole?: boolean;
  /** What is said of a value; by default the value. */
  say?: (value: number) => string;
}

const STEPS = 400;
let count = 0;

/** Three digits, and no more zeros than a number needs. */
export function short(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replaceAll("-", "−");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

/** Words in which _σ, _L and the like are written below the line. */
export function words(text: string): Child[] {
  return text.split(/(_[σLi])/).map((piece) => (piece.startsWith("_") ? el("sub", {}, piece.slice(1)) : piece));
}

/** A slider under its label, with its value beside it. */
export function slider(label: string, range: Range, value: number, changed: (value: number) => void): Control<number> {
  const id = `control-${++count}`;
  const whole = range.whole === true && range.log !== true;
  const [low, high] = whole ? [range.min, range.max] : [0, STEPS];
  const input = el("input", { type: "range", id, min: String(low), max: String(high), step: "1" });
  const output = el("output", { for: id });
  let exact = value; // a slider has STEPS places; what was set need not be one of them
  const toPlace = (number: number): number => {
    if (whole) return number;
    const share = range.log ? Math.log(number / range.min) / Math.log(range.max / range.min) : (number - range.min) / (range.max - range.min);
    return Math.round(share * STEPS);
  };
  const fromPlace = (place: number): number => {
    if (whole) return place;
    const share = place / STEPS;
    const number = range.log ? range.min * (range.max / range.min) ** share : range.min + share * (range.max - range.min);
    return range.whole ? Math.round(number) : Number(number.toPrecision(3));
  };
  const say = (): void => {
    output.value = range.say ? range.say(exact) : short(exact);
    input.setAttribute("aria-valuetext", output.value);
  };
  const control = {
    element: el("div", { class: "control" }, el("label", { for: id }, ...words(label)), output, input),
    get value() {
      return exact;
    },
    set value(number: number) {
      exact = number;
      input.value = String(toPlace(number));
      say();
    },
  };
  control.value = value;
  input.addEventListener("input", () => {
    exact = fromPlace(input.valueAsNumber);
    say();
    changed(exact);
  });
  return control;
}

/** One of several, by name. */
export function choice(label: string, options: Record<string, string>, value: string, changed: (value: string) => void): Control<string> {
  const id = `control-${++count}`;
  const select = el("select", { id }, ...Object.entries(options).map(([name, title]) => el("option", { value: name }, title)));
  select.value = value;
  select.addEventListener("change", () => changed(select.value));
  return {
    element: el("div", { class: "control choice" }, el("label", { for: id }, label), select),
    get value() {
      return select.value;
    },
    set value(name: string) {
      select.value = name;
    },
  };
}

/** On or off. */
export function toggle(label: string, value: boolean, changed: (value: boolean) => void): Control<boolean> {
  const input = el("input", { type: "checkbox" });
  input.checked = value;
  input.addEventListener("change", () => changed(input.checked));
  return {
    element: el("label", { class: "toggle" }, input, label),
    get value() {
      return input.checked;
    },
    set value(on: boolean) {
      input.checked = on;
    },
  };
}

export function button(label: string, pressed: () => void, kind = ""): HTMLButtonElement {
  const element = el("button", { type: "button", class: kind }, label);
  element.addEventListener("click", pressed);
  return element;
}

/** Numbers under names: returns the table, and how to say a number. */
export function readings(names: Record<string, string>): { element: HTMLElement; say: (name: string, value: string) => void } {
  const cells = Object.fromEntries(Object.keys(names).map((name) => [name, el("dd", { "data-reading": name })]));
  const rows = Object.entries(names).map(([name, title]) => el("div", {}, el("dt", {}, ...words(title)), cells[name]));
  const say = (name: string, value: string): void => {
    if (cells[name].textContent !== value) cells[name].textContent = value;
  };
  return { element: el("dl", { class: "readings" }, ...rows), say };
}

let saying = 0;

/** Say something for a while, to those who see the page and to those who hear it. */
export function announce(message: string): void {
  const status = document.getElementById("status");
  if (!status) return;
  status.textContent = message;
  clearTimeout(saying);
  saying = setTimeout(() => (status.textContent = ""), 8000);
}

/** Whether motion is not wanted. */
export const calm = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;
