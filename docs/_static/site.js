/* Without it every page can be read; with it code has a button that copies it, and keys reach what scrolls. */

/* What the theme leaves out for those who hear the page. */
function name() {
  document.querySelectorAll(".sidebar-tree .caption").forEach((caption) => caption.setAttribute("aria-level", "2"));
  document.querySelector(".sidebar-drawer").setAttribute("aria-label", "Pages");
  document.querySelector(".toc-drawer").setAttribute("aria-label", "On this page");
  const corners = [...document.querySelectorAll("th")].filter((cell) => cell.textContent.trim() === "");
  corners.forEach((cell) => cell.setAttribute("role", "cell"));
}

/* The search shows excerpts of the pages that it finds.  From a disk it may not fetch them; a script has their texts. */
function readPagesFromDisk() {
  const folder = new URL(".", location.href).href;
  const script = document.createElement("script");
  script.src = "_static/pages.js";
  const loaded = new Promise((resolve) => script.addEventListener("load", resolve));
  document.head.append(script);
  window.fetch = async (address) => ({
    text: async () => (await loaded) && PAGES[new URL(address, folder).href.slice(folder.length).replace(/\.html.*/, "")],
  });
}
if (location.protocol === "file:" && location.pathname.endsWith("/search.html")) readPagesFromDisk();

function addCopyButton(code) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const lines = code.textContent.trimEnd().split("\n");
    const typed = lines.filter((line) => /^(>>>|\.\.\.) /.test(line)).map((line) => line.slice(4));
    await navigator.clipboard.writeText((typed.length ? typed : lines).join("\n"));
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  code.parentElement.append(button);
}

document.addEventListener("DOMContentLoaded", () => {
  const areas = document.querySelectorAll(".table-wrapper, .cell_output .text_markdown, .formula, div.highlight > pre");
  [...areas].filter((area) => area.scrollWidth > area.clientWidth).forEach((area) => (area.tabIndex = 0));
  name();
  if (navigator.clipboard) {
    document.querySelectorAll("div.highlight > pre:not(.cell_output pre)").forEach(addCopyButton);
  }
});
