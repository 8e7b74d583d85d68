// Opens the code beside its equations, which elsewhere in the site is shut.
for (const code of document.querySelectorAll("h1#guidance ~ .doc details")) code.open = true;
