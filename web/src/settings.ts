// What a part shows is in the address, after its name: #anneal?levels=5&eps=0.01
import { type Choice, type Control, type Range, announce, choice, slider } from "./ui.ts";

/** A setting’s default, and what it may be: in a range, one of several, or as a pattern allows. */
type Setting = (Range & { value: number }) | (Choice & { value: string }) | { pattern: RegExp; value: string };

type Values<T extends Record<string, Setting>> = { [K in keyof T]: T[K]["value"] };

export const SEED = { value: 0, min: 0, max: 2 ** 32 - 1, whole: true };

/** The part that an address names, and what it says about it. */
export function parse(hash: string): { name: string; query: URLSearchParams } {
  const [name, query = ""] = hash.replace(/^#/, "").split("?", 2);
  return { name, query: new URLSearchParams(query) };
}

/** The value that a text stands for; undefined if that is not allowed. */
function accepted(text: string, setting: Setting): number | string | undefined {
  if ("min" in setting) {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    const inside = value >= setting.min && value <= setting.max && (!setting.whole || Number.isInteger(value));
    return inside ? value : undefined;
  }
  const allowed = "pattern" in setting ? setting.pattern.test(text) : Object.hasOwn(setting.options, text);
  return allowed ? text : undefined;
}

/** The settings of a part, as the address has them: with controls, whose changes are written into it. */
export class Settings<T extends Record<string, Setting>> {
  readonly values: Values<T>;
  readonly #defaults: Values<T>;
  readonly #controls = new Map<keyof T, Control<never>>();
  #waiting = 0;

  /** What is not allowed is left out, and that is said. */
  constructor(
    private readonly part: string,
    private readonly settings: T,
    query: URLSearchParams,
  ) {
    const defaults = Object.fromEntries(Object.entries(settings).map(([name, { value }]) => [name, value]));
    this.#defaults = defaults as Values<T>;
    this.values = { ...this.#defaults };
    const refused: string[] = [];
    for (const [name, text] of query) {
      const value = Object.hasOwn(settings, name) ? accepted(text, settings[name]) : undefined;
      if (value === undefined) refused.push(`${name}=${text.slice(0, 40)}`);
      else Object.assign(this.values, { [name]: value });
    }
    const sentence = `The link asks for ${refused.join(", ")}, which this part cannot show. It takes its defaults instead.`;
    announce(refused.length > 0 ? sentence : "");
  }

  /** A slider or a choice, which changes a setting and then calls ``changed``. */
  control(name: keyof T & string, changed: () => void = () => {}): HTMLElement {
    const setting: Setting = this.settings[name];
    const value: number | string = this.values[name];
    const take = (value: number | string): void => {
      Object.assign(this.values, { [name]: value });
      this.write();
      changed();
    };
    if ("pattern" in setting) throw new Error(`${name} has no control`);
    const control = "min" in setting ? slider(setting, Number(value), take) : choice(setting, String(value), take);
    this.#controls.set(name, control);
    return control.element;
  }

  /** Other values, also where their controls show them; as defaults, too, the address leaves them out. */
  set(values: Partial<Values<T>>, asDefaults = false): void {
    Object.assign(this.values, values);
    if (asDefaults) Object.assign(this.#defaults, values);
    for (const [name, value] of Object.entries(values)) this.#controls.get(name)?.set(value as never);
    this.write();
  }

  /** What the address says: settings that are not the defaults. */
  get query(): URLSearchParams {
    const changed = Object.entries(this.values).filter(([name, value]) => value !== this.#defaults[name]);
    return new URLSearchParams(changed.map(([name, value]) => [name, String(value)]));
  }

  /** Puts settings into the navigation at once, and into the address once they rest, if no other part is shown by then. */
  write(): void {
    clearTimeout(this.#waiting);
    const before = location.hash;
    const text = this.query.toString();
    const address = text ? `#${this.part}?${text}` : `#${this.part}`;
    document.getElementById(`to-${this.part}`)?.setAttribute("href", address);
    this.#waiting = setTimeout(() => {
      if (location.hash === before) history.replaceState(null, "", address);
    }, 200);
  }
}
