// The frame around every screen: what is asked for stands behind the # of the address.
import { html, render, useState, useEffect, useCallback } from "./vendor/preact.js";
import { Grid } from "./grid.js";
import { again, login } from "./live.js";
import { link, place } from "./places.js";

const later = {
  package: () => import("./package.js"), revision: () => import("./needs.js"), repositories: () => import("./repositories.js"),
  drafts: () => import("./drafts.js"), changes: () => import("./changes.js"),
};

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
  if (made.screen !== at.screen) return html`<p class="empty" role="status">Loading…</p>`;
  if (made.failed) return html`<p class="empty">This part of the page could not be loaded. <button type="button" onClick=${() => location.reload()}>Reload</button></p>`;
  return html`<${made.Made} key=${at.rest.join("/")} at=${at} say=${say} />`;
}

// Nothing on the page is lost: somebody logs in elsewhere, comes back, and it goes on.
function Login() {
  return html`<div class="login" role="alert"><strong>Your login has ended.</strong> What you see is as it was, and what you typed is kept.
    <a href="./" target="_blank">Log in in another tab</a>, or open the address that <code>kubectl cacheserver ui</code> prints now; then come back.
    <button type="button" class="first" onClick=${again}>Go on</button></div>`;
}

const MENU = [["packages", "Packages"], ["changes", "What is new"], ["drafts", "Drafts"], ["repositories", "Repositories"]];

function App() {
  const [at, setAt] = useState(place());
  const [state, setState] = useState("");
  const [out, setOut] = useState(login.ended);
  useEffect(() => {
    login.changed = () => setOut(login.ended);
  }, []);
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
    setState({ live: "", loading: "Loading…", lost: "Connection lost", refused: "" }[live] ?? "");
  }, []);
  const shown = ["package", "revision"].includes(at.screen) ? "packages" : at.screen;
  return html`
    <a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); document.querySelector("main").focus(); }}>To the content</a>
    <header>
      <a class="home" href=${link("packages")}><img src="./icon.svg" alt="" />cacheserver</a>
      <nav aria-label="Screens">${MENU.map(([name, text]) => html`
        <a href=${link(name)} aria-current=${shown === name ? "page" : undefined}>${text}</a>`)}</nav>
      <span class="state" role="status">${state}</span>
    </header>
    ${out && html`<${Login} />`}
    <main id="main" tabindex="-1"><${Screen} at=${at} say=${say} /></main>`;
}

document.getElementById("app").textContent = "";
render(html`<${App} />`, document.getElementById("app"));
