"use strict";
const at = (id) => document.getElementById(id);
const headers = () => (at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {});

async function listRuns() {
  const answer = await fetch("v1/models", { headers: headers() });
  if (!answer.ok) return;
  const models = (await answer.json()).models;
  at("run").replaceChildren(
    ...Object.keys(models).map((name) => Object.assign(document.createElement("option"), { value: name, textContent: name })),
  );
  const shown = () => {
    const card = models[at("run").value];
    at("card").textContent = card ? `${card.model}, threshold ${card.threshold} from ${card.threshold_source}` : "";
  };
  at("run").onchange = shown;
  shown();
}

async function judge(file) {
  at("overlay").hidden = true;
  at("verdict").className = "";
  at("verdict").textContent = "…";
  const query = new URLSearchParams({ run: at("run").value, name: file.name });
  const answer = await fetch(`v1/overlay?${query}`, {
    method: "POST",
    body: file,
    headers: { ...headers(), "Content-Type": "application/octet-stream" },
  });
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ error: answer.statusText }));
    at("verdict").className = "error";
    at("verdict").textContent = `error: ${told.error}`;
    return;
  }
  const verdict = answer.headers.get("X-Verdict");
  at("verdict").className = verdict;
  at("verdict").textContent = `${verdict}: score ${Number(answer.headers.get("X-Score")).toPrecision(4)}, threshold ${Number(answer.headers.get("X-Threshold")).toPrecision(4)}`;
  at("overlay").src = URL.createObjectURL(await answer.blob());
  at("overlay").hidden = false;
}

at("file").onchange = () => at("file").files[0] && judge(at("file").files[0]);
at("token").onchange = listRuns;
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) judge(event.dataTransfer.files[0]);
  });
}
listRuns();
