"use strict";
const outline = document.getElementById("outline");
outline.addEventListener("change", () => document.body.classList.toggle("plain", !outline.checked));
