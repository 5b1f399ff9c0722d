// Ask people before something is done; one question at a time.

const byId = (id) => document.getElementById(id);

let asked = Promise.resolve();

/** Ask for a yes, or for a line of text; null when it is a no. */
export async function ask(title, text, label, value = "", type = "text") {
  // A dialog tells that it was closed a moment later, and not of which question.
  const before = asked;
  let answered;
  asked = new Promise((resolve) => { answered = resolve; });
  await before;
  const dialog = byId("ask");
  const input = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-field").hidden = !label;
  byId("ask-label").textContent = label ?? "";
  input.type = type;
  input.value = value;
  dialog.returnValue = "no";
  dialog.showModal();
  (label ? input : byId("ask-yes")).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? input.value.trim() : null);
      answered();
    }, { once: true });
  });
}

// Enter in the field is a yes, not the first button of the form.
byId("ask-input").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    byId("ask").close("yes");
  }
});

/** Say something that goes away by itself. */
export function note(text) {
  const shown = document.createElement("p");
  shown.textContent = text;
  byId("notes").append(shown);
  setTimeout(() => shown.remove(), 8000);
}
