//! The metrics of this process as data: the text of `/metrics`, read back.

use std::collections::BTreeMap;

use crate::dto::Sample;

/// Samples by name. Buckets and quantiles are left to those who scrape.
pub(crate) fn read(text: &str) -> BTreeMap<String, Vec<Sample>> {
    let mut found = BTreeMap::<String, Vec<Sample>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, sample)) = sample(line) else { continue };
        if !["le", "quantile"].iter().any(|label| sample.labels.contains_key(*label)) {
            found.entry(name.to_owned()).or_default().push(sample);
        }
    }
    found
}

fn sample(line: &str) -> Option<(&str, Sample)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series, Sample { labels: BTreeMap::new(), value }));
    };
    Some((name, Sample { labels: pairs(labels.strip_suffix('}')?), value }))
}

/// `key="value",key="value"`, with backslashes before quotes, line ends and themselves.
fn pairs(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((key, rest)) = text.split_once("=\"") {
        let (mut value, mut length) = (String::new(), rest.len());
        let mut letters = rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    length = at + 1;
                    break;
                }
                '\\' => value.extend(letters.next().map(|(_, it)| if it == 'n' { '\n' } else { it })),
                other => value.push(other),
            }
        }
        found.insert(key.trim_start_matches(',').to_owned(), value);
        text = &rest[length..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_are_read_back() {
        let text = "# TYPE a counter\na_total{stage=\"writer\",why=\"say \\\"no\\\", or\"} 3\nb 1.5\n\
                    c_bucket{le=\"1\"} 2\nc_sum 7\nd{quantile=\"0.5\"} 1\nbroken\ne NaN\n";
        let found = read(text);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a_total", "b", "c_sum"]);
        let sample = &found["a_total"][0];
        assert_eq!((sample.value, sample.labels["stage"].as_str()), (3.0, "writer"));
        assert_eq!(sample.labels["why"], "say \"no\", or");
    }
}
