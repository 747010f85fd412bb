//! Tables for programs that take a cell for a formula when it begins like one.

/// One line of a table, its end included. A cell that a spreadsheet would run begins with an apostrophe instead.
pub(crate) fn line(cells: &[String]) -> String {
    let mut line = cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",");
    line.push_str("\r\n");
    line
}

fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r', '\t']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_formulas_are_text() {
        let cells = ["a", "b,c", "say \"hi\"", "=1+1", "@x", "-2", "+3", "\tx", "\ry", "a=b", ""];
        let line = line(&cells.map(str::to_owned));
        let expected = "a,\"b,c\",\"say \"\"hi\"\"\",'=1+1,'@x,'-2,'+3,\"'\tx\",\"'\ry\",a=b,\r\n";
        assert_eq!(line, expected);
    }
}
