//! Reading the status page as a script would.

/// The cells of every table, row by row, without markup. The first row of each is its heading.
pub fn tables(html: &str) -> Vec<Vec<Vec<String>>> {
    elements(html, "table")
        .map(|table| {
            let cells = |row: &str| elements(row, "t[dh]").map(|cell| text(&cell)).collect();
            elements(&table, "tr").map(|row| cells(&row)).collect()
        })
        .collect()
}

/// The table that has a column of this name: its rows as (column → cell) look-ups.
pub fn column(html: &str, key: &str, column: &str) -> Vec<String> {
    for table in tables(html) {
        let Some(heading) = table.first() else {
            continue;
        };
        let place = |name: &str| heading.iter().position(|cell| cell.eq_ignore_ascii_case(name));
        if heading.first().is_some_and(|first| first.eq_ignore_ascii_case(key)) {
            let place = place(column).unwrap_or_else(|| panic!("no column {column} in {heading:?}"));
            return table[1..].iter().map(|row| row[place].clone()).collect();
        }
    }
    panic!("no table whose first column is {key} in {html}")
}

/// The insides of all elements of that name; `t[dh]` stands for both kinds of cell. None of ours nest in themselves.
fn elements(html: &str, name: &str) -> impl Iterator<Item = String> {
    let names: Vec<&str> = if name == "t[dh]" { vec!["td", "th"] } else { vec![name] };
    let lower = html.to_ascii_lowercase();
    let mut found = Vec::new();
    for name in names {
        let mut from = 0;
        while let Some(start) = lower[from..].find(&format!("<{name}")).map(|at| at + from) {
            let after = start + 1 + name.len();
            from = after;
            if !lower[after..].starts_with(['>', ' ', '\n']) {
                continue;
            }
            let Some(open) = lower[after..].find('>').map(|at| at + after + 1) else {
                break;
            };
            let end = lower[open..].find(&format!("</{name}>")).map_or(html.len(), |at| at + open);
            found.push((start, html[open..end].to_owned()));
            from = end;
        }
    }
    found.sort();
    found.into_iter().map(|(_, inside)| inside)
}

fn text(html: &str) -> String {
    let mut out = String::new();
    let mut tag = false;
    for c in html.chars() {
        match c {
            '<' => tag = true,
            '>' if tag => tag = false,
            c if !tag => out.push(c),
            _ => {}
        }
    }
    out.trim().to_owned()
}
