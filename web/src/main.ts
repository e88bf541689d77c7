// The page: shows the part that the address names; parts are loaded on demand.
import type { Open } from "./parts/part.ts";
import { parse } from "./settings.ts";
import { announce, el } from "./ui.ts";

const TITLE = "Scores you can touch";
const PARTS: Record<string, { title: string; load: () => Promise<{ open: Open }> }> = {
  scores: { title: "Scores", load: () => import("./parts/scores.ts") },
  anneal: { title: "Why anneal", load: () => import("./parts/anneal.ts") },
  learning: { title: "Learning", load: () => import("./parts/learning.ts") },
  digits: { title: "Digits", load: () => import("./parts/digits.ts") },
  fill: { title: "Fill in", load: () => import("./parts/fill.ts") },
};

const main = document.querySelector("main") as HTMLElement;
const links = Object.entries(PARTS).map(([name, { title }]) => el("a", { id: `to-${name}`, href: `#${name}` }, title));
let part = new AbortController(); // ends the part that is shown
let current = "";
let ticket = 0;

async function show(moved: boolean): Promise<void> {
  const mine = ++ticket;
  const { name, query } = parse(location.hash);
  const known = Object.hasOwn(PARTS, name) ? name : "scores";
  const { title, load } = PARTS[known];
  const waiting = setTimeout(() => announce(`Loading “${title}”.`), 300);
  try {
    const { open } = await load();
    if (mine !== ticket) return; // another part was asked for since
    part.abort();
    part = new AbortController();
    main.replaceChildren(open(query, part.signal));
    document.title = `${title} · ${TITLE}`;
    for (const link of links) link.setAttribute("aria-current", link.id === `to-${known}` ? "page" : "false");
    if (moved) go(known === current ? ".pictures" : "h1");
    current = known;
  } catch (error) {
    announce(`“${title}” cannot be shown: ${error instanceof Error ? error.message : String(error)}`);
    throw error;
  } finally {
    clearTimeout(waiting);
  }
}

/** Moves the focus and the top of the window to an element of the part. */
function go(selector: string): void {
  main.querySelector<HTMLElement>(selector)?.focus({ preventScroll: true });
  if (selector === "h1") scrollTo(0, 0);
  else main.querySelector(selector)?.scrollIntoView();
}

document.querySelector("nav")?.append(...links);
addEventListener("hashchange", () => void show(true));
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("a");
  if (!link || !link.hash) return;
  if (link.hash === "#main") {
    event.preventDefault(); // the address names a part, and not a place in it
    go("h1");
  } else if (link.hash === location.hash) void show(true);
});
void show(false);
