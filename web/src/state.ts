// What a part shows is in the address, after its name: #anneal?levels=5&eps=0.01
import type { Range } from "./ui.ts";
import { announce } from "./ui.ts";

export type Settings = Record<string, number | string>;

/** What each setting may be: a range of numbers, some names, or a pattern. */
export type Allowed<T extends Settings> = { [K in keyof T]: Range | readonly string[] | RegExp };

/** The part that an address names, and what it says about it. */
export function parse(hash: string): { name: string; query: URLSearchParams } {
  const [name, query = ""] = hash.replace(/^#/, "").split("?", 2);
  return { name, query: new URLSearchParams(query) };
}

/** The defaults, but for what an address says; what is not allowed is left out, and that is said. */
export function read<T extends Settings>(query: URLSearchParams, defaults: T, allowed: Allowed<T>): T {
  const settings: Settings = { ...defaults };
  const refused: string[] = [];
  for (const [name, text] of query) {
    const value = Object.hasOwn(defaults, name) ? accepted(text, allowed[name]) : undefined;
    if (value === undefined) refused.push(`${name}=${text.slice(0, 40)}`);
    else settings[name] = value;
  }
  announce(refused.length > 0 ? `The address says ${refused.join(", ")}, which is not possible here; that was left out.` : "");
  return settings as T;
}

function accepted(text: string, allowed: Range | readonly string[] | RegExp): number | string | undefined {
  if (allowed instanceof RegExp) return allowed.test(text) ? text : undefined;
  if ("min" in allowed) {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    const inside = value >= allowed.min && value <= allowed.max && (!allowed.whole || Number.isInteger(value));
    return inside ? value : undefined;
  }
  return allowed.includes(text) ? text : undefined;
}

/** What an address says of settings: those that are not the defaults. */
export function settled<T extends Settings>(settings: T, defaults: T): URLSearchParams {
  const changed = Object.entries(settings).filter(([key, value]) => value !== defaults[key]);
  return new URLSearchParams(changed.map(([key, value]) => [key, String(value)]));
}

let waiting = 0;

/** Put settings into the address, but for those that are the defaults; once they rest. */
export function write<T extends Settings>(name: string, settings: T, defaults: T): void {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const text = settled(settings, defaults).toString();
    history.replaceState(null, "", text ? `#${name}?${text}` : `#${name}`);
  }, 200);
}

/** Forget what waits to be written, for another part has the address now. */
export function forget(): void {
  clearTimeout(waiting);
}
