// Sort a table by the column whose heading is clicked: numbers as numbers, missing values last.
for (const table of document.querySelectorAll('table.sortable')) {
const headings = [...table.tHead.rows[0].cells];
headings.forEach((heading, column) => heading.firstChild.addEventListener('click', () => {
  const up = heading.getAttribute('aria-sort') !== 'ascending';
  headings.forEach(other => other.removeAttribute('aria-sort'));
  heading.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  const compare = (a, b) => {
    const [x, y] = [a, b].map(row => row.cells[column].dataset.value ?? row.cells[column].textContent);
    if (x === 'n/a' || y === 'n/a') return (x === 'n/a') - (y === 'n/a');
    return (up ? 1 : -1) * (x - y || x.localeCompare(y, 'en', {numeric: true}));
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}));
}
