//! Tables as crictl prints them: columns of 20 characters or more, three blanks between them.

use super::escape;

/// Blanks between the longest cell of a column and the next column.
const PADDING: usize = 3;

pub(crate) struct Table {
    least_width: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&str; N]) -> Self {
        let mut table = Self::without_header(20);
        table.row(header);
        table
    }

    /// `least_width` is the least width of a column, in characters.
    pub(crate) fn without_header(least_width: usize) -> Self {
        Self { least_width, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item: Into<String>>) {
        // A line end or tab in a cell would look like another row or column.
        let cell = |cell: String| escape(&cell, "").into_owned();
        self.rows.push(cells.into_iter().map(Into::into).map(cell).collect());
    }

    /// The last cell of a row is not padded.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let widths = self.widths();
        self.rows.iter().map(move |row| {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                line.push_str(cell);
                if index + 1 < row.len() {
                    let blanks = widths[index] - cell.chars().count();
                    line.extend(std::iter::repeat_n(' ', blanks));
                }
            }
            line
        })
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let longest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(|column| self.least_width.max(longest(column) + PADDING)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(table: &Table) -> Vec<String> {
        table.lines().collect()
    }

    #[test]
    fn columns_are_as_wide_as_crictl_makes_them() {
        let mut table = Table::new(["POD ID", "CREATED", "STATE"]);
        table.row(["0123456789abc", "Less than a second ago", "Ready"]);
        table.row(["müller", "2 days ago", "NotReady"]);
        assert_eq!(
            printed(&table),
            [
                "POD ID              CREATED                  STATE",
                "0123456789abc       Less than a second ago   Ready",
                "müller              2 days ago               NotReady",
            ]
        );
    }

    #[test]
    fn a_cell_cannot_look_like_a_row() {
        let mut table = Table::new(["NAME", "IMAGE"]);
        table.row(["a\nb", "c\td"]);
        assert_eq!(printed(&table)[1], "a\\u000ab            c\\u0009d");
    }

    #[test]
    fn a_table_may_have_narrow_columns_and_no_header() {
        let mut table = Table::without_header(10);
        table.row(["cgroup driver:", "SYSTEMD"]);
        assert_eq!(printed(&table), ["cgroup driver:   SYSTEMD"]);
    }
}
