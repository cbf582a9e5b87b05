// The frame around every screen: what is asked for stands behind the # of the address.
import { html, render, useState, useEffect, useCallback } from "./vendor/preact.js";
import { Grid } from "./grid.js";
import { link, place } from "./places.js";

const later = { package: () => import("./package.js"), repositories: () => import("./repositories.js"), drafts: () => import("./drafts.js") };

function Screen({ at, say }) {
  const [made, setMade] = useState({});
  useEffect(() => {
    let here = true;
    const load = later[at.screen];
    if (load) {
      load().then(
        (found) => here && setMade({ screen: at.screen, Made: found.default }),
        () => here && setMade({ screen: at.screen, failed: true }),
      );
    }
    return () => (here = false);
  }, [at.screen]);
  if (at.screen === "packages") return html`<${Grid} at=${at} say=${say} />`;
  if (!later[at.screen]) return html`<p class="empty">There is no such screen. <a href="#/">All packages</a></p>`;
  if (made.screen !== at.screen) return html`<p class="empty">Loading…</p>`;
  if (made.failed) return html`<p class="empty">This part of the page could not be loaded. Reload it to try again.</p>`;
  return html`<${made.Made} key=${at.rest.join("/")} at=${at} say=${say} />`;
}

const MENU = [["packages", "Packages"], ["drafts", "Drafts"], ["repositories", "Repositories"]];

function App() {
  const [at, setAt] = useState(place());
  const [state, setState] = useState("");
  useEffect(() => {
    const moved = () => {
      setAt((before) => {
        const now = place();
        if (now.screen !== before.screen || now.rest.join() !== before.rest.join()) {
          scrollTo(0, 0);
          document.querySelector("main")?.focus({ preventScroll: true });
        }
        return now;
      });
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const say = useCallback((title, live) => {
    document.title = title ? `${title} · Packages` : "Packages";
    setState({ live: "", loading: "Loading…", lost: "Connection lost; trying again", refused: "" }[live] ?? "");
  }, []);
  const shown = at.screen === "package" ? "packages" : at.screen;
  return html`
    <a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); document.querySelector("main").focus(); }}>To the content</a>
    <header>
      <a class="home" href="#/"><img src="./icon.svg" alt="" />cacheserver</a>
      <nav aria-label="Screens">${MENU.map(([name, text]) => html`
        <a href=${name === "packages" ? "#/" : link(name)} aria-current=${shown === name ? "page" : undefined}>${text}</a>`)}</nav>
      <span class="state" role="status">${state}</span>
    </header>
    <main id="main" tabindex="-1"><${Screen} at=${at} say=${say} /></main>`;
}

document.getElementById("app").textContent = "";
render(html`<${App} />`, document.getElementById("app"));
