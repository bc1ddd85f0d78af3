"use strict";
// Where somebody points at a picture, all of them show that moment, and what was then.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pictures = [...document.querySelectorAll("svg[role=img]")];
  const rate = (bits) => {
    const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"];
    let at = 0;
    while (bits >= 1000 && at < 3) { bits /= 1000; at += 1; }
    return bits.toFixed(at ? 2 : 0) + " " + units[at];
  };
  const show = (seconds) => {
    const at = Math.min(Math.floor(seconds / data.bin_s), data.bits_per_s.length - 1);
    const text = seconds.toFixed(data.bin_s < 1 ? 2 : 0) + " s: " + rate(data.bits_per_s[at]) + ", " + data.active[at] +
      " active, RTT " + data.rtt_ms[at] + " ms, " + data.lost_percent[at] + "% lost";
    const x = data.left + (data.right - data.left) * seconds / data.span_s;
    for (const picture of pictures) {
      const line = picture.querySelector(".cursor");
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.style.visibility = "visible";
      picture.closest("section").querySelector(".readout").textContent = text;
    }
  };
  const hide = () => {
    for (const picture of pictures) {
      picture.querySelector(".cursor").style.visibility = "hidden";
      picture.closest("section").querySelector(".readout").textContent = "";
    }
  };
  for (const picture of pictures) {
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * data.width;
      const share = (x - data.left) / (data.right - data.left);
      if (share >= 0 && share <= 1) { show(share * data.span_s); } else { hide(); }
    });
    picture.addEventListener("pointerleave", hide);
  }
})();
