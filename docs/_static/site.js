/* Without it every page can be read; with it code has a button that copies it, and keys reach what scrolls. */

/* What the theme leaves out for those who hear the page. */
function name() {
  document.querySelectorAll(".sidebar-tree .caption").forEach((caption) => caption.setAttribute("aria-level", "2"));
  document.querySelector(".sidebar-drawer").setAttribute("aria-label", "Pages");
  document.querySelector(".toc-drawer").setAttribute("aria-label", "On this page");
}

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
