"""The demo's page: one file, light and dark, no script, nothing fetched."""

from __future__ import annotations

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ConceptLoom: what it does, shown</title>
<style>
:root {
  --paper: #fafaf8; --card: #ffffff; --ink: #262a30; --quiet: #5f666e; --rule: #e2e4e3;
  --good: #1b7a43; --bad: #b01f33; --accent: #0b6aa2; --shade: 0 1px 3px rgba(20, 24, 30, .10);
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --card: #1d2126; --ink: #e6e8ea; --quiet: #9ba3ac; --rule: #30363d;
    --good: #58c783; --bad: #ff7d8a; --accent: #6cb8ea; --shade: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 66rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1 { font-size: clamp(1.7rem, 4vw, 2.5rem); line-height: 1.15; margin: 0 0 .6rem; }
h2 {
  font-size: 1.3rem; margin: 3.2rem 0 .4rem; padding-top: 1.1rem;
  border-top: 1px solid var(--rule);
}
p { margin: .4rem 0 1rem; max-width: 46rem; }
.lead { font-size: 1.12rem; color: var(--quiet); }
.quiet, figcaption, th { color: var(--quiet); }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1rem;
  overflow-x: auto;
}
.grid { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
figure {
  margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: .7rem; box-shadow: var(--shade);
}
figure img { display: block; width: 100%; height: auto; border-radius: 7px; }
figcaption { font-size: .88rem; line-height: 1.4; padding: .55rem .15rem .1rem; }
.pair { display: grid; gap: .4rem; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); }
.pair .cell { position: relative; }
.mark {
  position: absolute; right: .35rem; bottom: .35rem; width: 1.45rem; height: 1.45rem;
  border-radius: 50%; font: 700 .85rem/1.45rem system-ui, sans-serif; text-align: center;
  color: #fff; background: #1b7a43;
}
.mark.no { background: #b01f33; }
.wide figure { max-width: 100%; }
.wide img { max-width: 100%; width: auto; margin: 0 auto; }
.two {
  display: grid; gap: 1.1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
}
.column { display: grid; gap: 1.1rem; }
.handle { font-weight: 600; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { text-align: left; padding: .5rem .9rem .5rem 0; border-bottom: 1px solid var(--rule); }
th { font-weight: 500; font-size: .88rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
$colours
</style>
</head>
<body>
<main>
<h1>Two words from one picture</h1>
<p class="lead">$lead</p>

<h2>1. One picture, one mask for each object</h2>
<p>$scene_text</p>
<div class="two">$scene</div>

<h2>2. Learning</h2>
<p>$learning_text</p>
<div class="two">$timeline<div class="column">$learning</div></div>

<h2>3. Apart, in new places</h2>
<p>$apart_text</p>
<div class="grid">$apart</div>

<h2>4. Together</h2>
<p>$together_text</p>
<div class="grid">$together</div>

<h2>5. Next to what the model knew before</h2>
<p>$neighbour_text</p>
<div class="grid">$neighbour</div>

<h2>6. Where the words look in what they drew</h2>
<p>$maps_text</p>
<div class="two wide">$maps</div>

<h2>7. The figures</h2>
<p>$figures_text</p>
<div class="scroll">$figures</div>

$chapters
<h2>Go on</h2>
<p>$go_on_text</p>
<pre><code>$commands</code></pre>
</main>
</body>
</html>
""")
