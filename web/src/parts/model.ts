// Parts that need the model: what is fetched is seen, and what is missing is said.
import { type Engine, start } from "../digits/engine.ts";
import { el } from "../ui.ts";
import { type Part, type Text, layout } from "./part.ts";

export const DEVICES = { auto: "What there is", webgpu: "WebGPU", wasm: "WebAssembly" };

/** What is shown once the model is there. */
export interface Shown {
  pictures: Node[];
  controls: Node[];
  stop?(): void;
}

/** Loads the model anew, for what an address says now: by another device. */
export type Again = (query: URLSearchParams) => void;

/** A part that loads the model first. */
export function withModel(text: Text, query: URLSearchParams, build: (engine: Engine, query: URLSearchParams, again: Again) => Shown): Part {
  const element = el("div");
  let [engine, shown]: [Engine | undefined, Shown | undefined] = [undefined, undefined];
  let wanted = 0;

  function put(section: HTMLElement): void {
    const focused = element.querySelector("h1") === document.activeElement;
    element.replaceChildren(section);
    if (focused) section.querySelector("h1")?.focus();
  }

  function end(): void {
    wanted++;
    shown?.stop?.();
    engine?.stop();
    [engine, shown] = [undefined, undefined];
  }

  function load(query: URLSearchParams): void {
    end();
    const ticket = wanted;
    const [bar, label] = [el("progress", { "aria-label": "Loading" }), el("p", { class: "loading" })];
    put(layout(text, [label, bar], []));
    start(query.get("device") ?? "auto", (message, share) => {
      label.textContent = message;
      if (share === undefined) bar.removeAttribute("value");
      else bar.value = share;
    }).then(
      (found) => {
        if (ticket !== wanted) return found.stop();
        engine = found;
        shown = build(found, query, load);
        const note = found.note ? [el("p", { class: "note" }, `${found.note}. Computed by WebAssembly instead.`)] : [];
        put(layout(text, [...note, ...shown.pictures], shown.controls));
      },
      (error: Error) => {
        if (ticket !== wanted) return;
        bar.remove();
        label.setAttribute("role", "alert");
        label.textContent = `The model cannot be shown: ${error.message}.`;
      },
    );
  }

  load(query);
  return { element, stop: end };
}
