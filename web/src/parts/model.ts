// Parts that need the model, with the progress of loading it and errors.
import { type Engine, type Progress, type State, start } from "../digits/engine.ts";
import { el, readings, short, tell } from "../ui.ts";
import { type Open, layout } from "./part.ts";

/** The device that computes the network; only the address sets it. */
export const DEVICE = { value: "auto", options: { auto: "Automatic", webgpu: "WebGPU", wasm: "WebAssembly" } };

/** The part once the model is loaded. */
type Build = (engine: Engine, query: URLSearchParams, signal: AbortSignal) => { pictures: Node[]; controls: Node[] };

const engines = new Map<string, Promise<Engine>>(); // by device; both parts draw by the same
let heard: Progress = () => {}; // who shows how far loading is

/** A part that first loads the model if necessary. */
export function withModel(name: string, build: Build): Open {
  return (query, signal) => {
    const [bar, label] = [el("progress", { "aria-label": "Loading" }), el("p")];
    /** The part, without texts about other images than the model’s. */
    const frame = (pictures: Node[], controls: Node[], others: string): HTMLElement => {
      const part = layout(name, pictures, controls);
      for (const words of part.querySelectorAll(others)) words.remove();
      return part;
    };
    const element = el("div", {}, frame([label, bar], [], ".digits, .other"));
    heard = (message, share) => {
      label.textContent = message;
      if (share === undefined) bar.removeAttribute("value");
      else bar.value = share;
    };

    async function load(): Promise<void> {
      const device = query.get("device") ?? "auto";
      const loading = engines.get(device) ?? start(device, (message, share) => heard(message, share));
      engines.set(device, loading);
      try {
        const engine = await loading;
        if (signal.aborted) return;
        signal.addEventListener("abort", engine.rest);
        const { pictures, controls } = build(engine, query, signal);
        const sentence = `${engine.note}. Computed by WebAssembly instead.`;
        const note = engine.note ? [el("p", { class: "group" }, sentence)] : [];
        const focused = document.activeElement?.getAttribute("data-focus") ?? "none";
        const digits = engine.card.names.join("") === "0123456789";
        element.replaceChildren(frame([...note, ...pictures], controls, digits ? ".other" : ".digits"));
        element.querySelector<HTMLElement>(`[data-focus="${focused}"]`)?.focus({ preventScroll: true });
      } catch (error) {
        engines.delete(device);
        bar.remove();
        label.setAttribute("role", "alert");
        label.textContent = `The model cannot be shown: ${error instanceof Error ? error.message : String(error)}.`;
      }
    }

    void load();
    return element;
  };
}

type Labels = Record<string, string>;

/** The progress of sampling: a bar and numbers, with other numbers before and after. */
export function metersOf(engine: Engine, before: Labels, after: Labels) {
  const middle = { sigma: "Noise level σ", evaluations: "Network evaluations per image ?evaluations", seconds: "Time" };
  const numbers = readings({ ...before, ...middle, ...after, by: "Computed by" });
  numbers.say("by", engine.title);
  const bar = el("progress", { "aria-label": "Drawing", value: "0" });

  function begin(): void {
    numbers.say("sigma", "not yet");
    bar.value = 0;
  }

  const level = (sigma: number): void => numbers.say("sigma", sigma > 0 ? short(sigma) : "0, denoised");

  /** Updates the progress and, at the end, announces the time. */
  function state({ evaluations, seconds, share, last }: State, time: string): void {
    bar.value = share;
    numbers.say("evaluations", String(evaluations));
    numbers.say("seconds", last ? time : `${seconds.toFixed(1)} s so far`);
    if (last) tell(`Drawn in ${time}.`);
  }

  return { element: numbers.element, bar, say: numbers.say, begin, level, state };
}
