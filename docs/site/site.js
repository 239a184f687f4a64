// Maps are drawn when a page has one: plotly's file is large and asked for only then.
const maps = document.querySelectorAll(".map script");
if (maps.length) {
  const plotly = document.createElement("script");
  plotly.src = new URL("plotly.js", document.querySelector("script[src$='assets/site.js']").src);
  plotly.onload = () => maps.forEach((data) => {
    const figure = JSON.parse(data.textContent);
    Plotly.newPlot(data.parentElement, figure.data, figure.layout, { displaylogo: false, responsive: true });
  });
  document.head.append(plotly);
}
