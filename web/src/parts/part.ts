// What the page asks of a part of it.
import { announce, button, el, words } from "../ui.ts";

export interface Part {
  element: HTMLElement;
  /** End its frames, workers and listeners. */
  stop(): void;
}

/** A part that shows what an address says about it. */
export type Open = (query: URLSearchParams) => Part;

export interface Text {
  title: string;
  intro: string;
  lookFor: string[];
  /** Where on a wide screen there is room for what to look for; beside: as below, and pictures have the whole width. */
  below: "pictures" | "controls" | "beside";
}

/** A part's frame: heading, introduction, pictures, controls, more pictures, and what to look for. */
export function layout({ title, intro, lookFor, below }: Text, pictures: Node[], controls: Node[], more: Node[] = []): HTMLElement {
  const share = button("Copy link", () => {
    // The address is written once settings rest.
    setTimeout(() => {
      navigator.clipboard.writeText(location.href).then(
        () => announce("The link to exactly this is on the clipboard."),
        () => announce("The clipboard cannot be written; the link is in the address bar."),
      );
    }, 250);
  });
  const points = lookFor.map((point) => el("li", {}, ...words(point)));
  return el(
    "section",
    { class: `part below-${below}` },
    el("h1", { tabindex: "-1" }, title),
    el("p", { class: "intro" }, ...words(intro)),
    el("div", { class: "pictures" }, ...pictures),
    el("div", { class: "controls", role: "group", "aria-label": "Controls" }, ...controls, share),
    el("div", { class: "look" }, ...more, el("h2", {}, "What to look for"), el("ul", {}, ...points)),
  );
}
