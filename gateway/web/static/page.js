"use strict";
// The page is whole without this: it only fetches itself again while somebody looks at it.
setInterval(async () => {
  if (document.hidden) return;
  let answer;
  try {
    answer = await fetch("/", { headers: { accept: "text/html" } });
  } catch {
    document.body.classList.add("away");
    return;
  }
  if (!answer.ok || answer.redirected) return location.reload();
  document.body.classList.remove("away");
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["live", "clock"]) document.getElementById(id).replaceWith(fresh.getElementById(id));
}, 10000);
