// On a phone a section opens when it is asked for; on a desktop and on paper all are open, as without this script.
const parts = document.querySelectorAll("details.part"), phone = matchMedia("screen and (max-width: 40rem)");
const fold = () => parts.forEach(part => { part.open = !phone.matches || `#${part.lastElementChild.id}` === location.hash; });
phone.addEventListener("change", fold);
addEventListener("beforeprint", () => parts.forEach(part => { part.open = true; }));
fold();
