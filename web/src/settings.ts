// The address holds all settings of a part, after its name: #anneal?levels=5&eps=0.01
import { type Choice, type Control, type Range, announce, choice, slider } from "./ui.ts";

/** The default of a setting and its allowed values: a range, a list, or a pattern. */
type Setting = (Range & { value: number }) | (Choice & { value: string }) | { pattern: RegExp; value: string };

type Values<T extends Record<string, Setting>> = { [K in keyof T]: T[K]["value"] };

export const SEED = { value: 0, min: 0, max: 2 ** 32 - 1, whole: true };

/** The part that an address names, and its settings. */
export function parse(hash: string): { name: string; query: URLSearchParams } {
  const [name, query = ""] = hash.replace(/^#/, "").split("?", 2);
  return { name, query: new URLSearchParams(query) };
}

/** Parses a value; undefined if it isn’t allowed. */
function accepted(text: string, setting: Setting): number | string | undefined {
  if ("min" in setting) {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    const inside = value >= setting.min && value <= setting.max && (!setting.whole || Number.isInteger(value));
    return inside ? value : undefined;
  }
  const allowed = "pattern" in setting ? setting.pattern.test(text) : Object.hasOwn(setting.options, text);
  return allowed ? text : undefined;
}

/** The settings of a part, read from the address, with controls that write changes back to it. */
export class Settings<T extends Record<string, Setting>> {
  readonly values: Values<T>;
  readonly #defaults: Values<T>;
  readonly #controls = new Map<keyof T, Control<never>>();
  #waiting = 0;

  /** Ignores values that aren’t allowed, and announces them. */
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
    const sentence = `This part can’t show ${refused.join(", ")}. It uses the defaults instead.`;
    announce(refused.length > 0 ? sentence : "");
  }

  /** A slider or a select box that changes a setting and calls ``changed``. */
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

  /** Changes values and their controls. Defaults are left out of the address. */
  set(values: Partial<Values<T>>, asDefaults = false): void {
    Object.assign(this.values, values);
    if (asDefaults) Object.assign(this.#defaults, values);
    for (const [name, value] of Object.entries(values)) this.#controls.get(name)?.set(value as never);
    this.write();
  }

  /** The settings that differ from the defaults, for the address. */
  get query(): URLSearchParams {
    const changed = Object.entries(this.values).filter(([name, value]) => value !== this.#defaults[name]);
    return new URLSearchParams(changed.map(([name, value]) => [name, String(value)]));
  }

  /** Updates the navigation immediately, and the address once the settings rest, unless another part is shown by then. */
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
