// What the page asks of a part of it.
import { announce, button } from "../ui.ts";

/** Shows what an address says about a part; its frames, workers and listeners end with the signal. */
export type Open = (query: URLSearchParams, signal: AbortSignal) => HTMLElement;

/** A part's frame, as index.html has it, around pictures, controls, and what stands before what to look for. */
export function layout(name: string, pictures: Node[], controls: Node[], more: Node[] = []): HTMLElement {
  const template = document.getElementById(`part-${name}`) as HTMLTemplateElement;
  const section = document.importNode(template.content, true).firstElementChild as HTMLElement;
  // The address is written once settings rest.
  const share = button("Copy link", () => setTimeout(() => void copyLink(section.dataset.without ?? ""), 250));
  section.querySelector(".pictures")?.prepend(...pictures);
  section.querySelector(".controls")?.append(...controls, share);
  section.querySelector(".look")?.prepend(...more);
  return section;
}

/** Copies the address, and says what it does not carry. */
async function copyLink(without: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(location.href);
    announce(`Link copied. ${without}`);
  } catch {
    announce(`Please copy the link from the address bar. ${without}`);
  }
}
