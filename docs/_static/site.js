/* Without it every page can be read; with it parts of the navigation fold, and code has a button that copies it. */

function foldNavigation() {
  for (const caption of document.querySelectorAll(".sidebar-tree p.caption")) {
    const list = caption.nextElementSibling;
    const part = document.createElement("details");
    part.open = list.querySelector(".current") !== null;
    const summary = document.createElement("summary");
    caption.before(part);
    summary.append(caption);
    part.append(summary, list);
  }
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
  foldNavigation();
  if (navigator.clipboard) {
    document.querySelectorAll("div.highlight > pre:not(.cell_output pre)").forEach(addCopyButton);
  }
});
