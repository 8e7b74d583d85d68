"use strict";
// One preview at a time, chosen with a slider. Without this script all are shown, one below the other.
const slider = document.getElementById("step");
if (slider) {
  const previews = [...document.querySelectorAll("#previews figure")];
  const show = () => {
    const chosen = previews[Number(slider.value)];
    for (const preview of previews) preview.hidden = preview !== chosen;
    const words = `step ${chosen.dataset.step}`;
    document.getElementById("at").textContent = words;
    slider.setAttribute("aria-valuetext", words);
  };
  slider.addEventListener("input", show);
  slider.parentElement.hidden = false;
  show();
}
