/* Fills the page of `sharedllm explain` with the explanation of an answer, whose id is in the address, and starts it. */

import { Failure, json } from "./api.js";

const $ = id => document.getElementById(id);
try {
  const facts = await json(`/v1/explanations/${location.hash.slice(1)}`);
  $("facts").textContent = JSON.stringify(facts);
  document.querySelector("h1").textContent = facts.question;
  document.querySelector(".answer").textContent = facts.answer || "(nothing was written)";
  document.title = facts.question;
  await import("/page/explain.js");
  /* Beside the conversation, question and answer stand there already. */
  if (window.parent !== window) {
    document.querySelector("header").hidden = true;
    $("map-title").scrollIntoView();
  }
} catch (error) {
  document.querySelector("h1").textContent = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
  document.querySelector("main").hidden = true;
}
