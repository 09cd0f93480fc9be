"use strict";
fetch("openapi.json").then((answer) => answer.json()).then((told) => {
  const body = document.querySelector("#paths tbody");
  for (const [path, methods] of Object.entries(told.paths)) {
    for (const [method, call] of Object.entries(methods)) {
      const row = body.insertRow();
      const answers = Object.entries(call.responses).map(([code, each]) => `${code} ${each.description}`);
      for (const text of [`${method.toUpperCase()} ${path}`, call.summary, answers.join("; ")]) {
        row.insertCell().textContent = text;
      }
    }
  }
});
