//! Times of day and days of the week. Times are on the grid of five minutes and stay within a day;
//! their steps treat minutes and hours apart. Days are walked one by one with running numbers.

use super::numbers::key_of;
use super::problem::{Kind, Problem, Turn, wrong_numbers, wrongs};
use super::rng::{Rng, Split};
use super::scan;
use super::wording::{self, Form};
use super::words::{self, Lang, PEOPLE, Person};

/// "1 hour 45 minutes", "1小时45分钟"; a part that is 0 is left out.
pub(super) fn span(lang: Lang, minutes: u32) -> String {
    let (h, m) = (minutes / 60, minutes % 60);
    let one = |n: u32, en: &str, zh: &str| match lang {
        Lang::En => format!("{n} {en}{}", if n == 1 { "" } else { "s" }),
        Lang::Zh => format!("{n}{zh}"),
    };
    match (h, m) {
        (0, _) => one(m, "minute", "分钟"),
        (_, 0) => one(h, "hour", "小时"),
        _ => {
            format!("{}{}{}", one(h, "hour", "小时"), lang.pick(" ", ""), one(m, "minute", "分钟"))
        }
    }
}

fn said(lang: Lang, task: &str, minutes: &[String], hours: &str) -> String {
    let (m, h) = lang.pick(("minutes", "hours"), ("分钟", "小时"));
    let (colon, comma) = lang.pick((": ", ", "), ("：", "，"));
    let (semicolon, stop) = lang.pick(("; ", "."), ("；", "。"));
    format!("{task}{colon}{m} {}{semicolon}{h} {hours}{stop}", minutes.join(comma))
}

/// The steps of a time and a span: "3:45 + 1:30: minutes 45+30=75, 75-60=15; hours 3+1+1=5."
fn after_steps(lang: Lang, from: u32, by: u32) -> String {
    let (h, m, dh, dm) = (from / 60, from % 60, by / 60, by % 60);
    let sum = m + dm;
    let mut minutes = vec![format!("{m}+{dm}={sum}")];
    let over = sum / 60;
    if over > 0 {
        minutes.push(format!("{sum}-60={}", sum - 60));
    }
    let plus = if over > 0 { "+1" } else { "" };
    let task = format!("{} + {}", words::time(from), words::time(by));
    said(lang, &task, &minutes, &format!("{h}+{dh}{plus}={}", h + dh + over))
}

/// The steps of a time less a span or a time: "5:15 - 1:30: minutes 15+60=75, 75-30=45; hours 5-1-1=3."
fn before_steps(lang: Lang, to: u32, by: u32) -> String {
    let (h, m, dh, dm) = (to / 60, to % 60, by / 60, by % 60);
    let owed = u32::from(m < dm);
    let lent = m + 60 * owed;
    let mut minutes = Vec::new();
    if owed > 0 {
        minutes.push(format!("{m}+60={lent}"));
    }
    minutes.push(format!("{lent}-{dm}={}", lent - dm));
    let minus = if owed > 0 { "-1" } else { "" };
    let task = format!("{} - {}", words::time(to), words::time(by));
    said(lang, &task, &minutes, &format!("{h}-{dh}{minus}={}", h - dh - owed))
}

/// A time later, a time before, or a duration.
pub(super) fn clock(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let form = rng.pick(&[Form::TimeAfter, Form::TimeBefore, Form::Duration]);
    let by = 5 * match rng.below(3) {
        0 => rng.between(1, 11),
        1 => 12 * rng.between(1, 4),
        _ => rng.between(13, 59),
    };
    let from = 5 * rng.between(12, 280 - by / 5);
    let to = from + by;
    let key = key_of(lang, Form::TimeAfter, [from as usize, by as usize]);
    if Split::of(key) != split {
        return None;
    }
    let (start, end, long) = (words::time(from), words::time(to), span(lang, by));
    let person = Person(rng.below(PEOPLE));
    let m = if form == Form::TimeBefore { &end } else { &start };
    let slots = [
        ('m', &**m),
        ('n', &*end),
        ('d', &*long),
        ('a', person.name(lang)),
        ('h', person.he(lang)),
    ];
    let question = wording::ask(rng, lang, split, form, &slots);
    let near = [5, 10, 15, 30, 60, 65, 120].into_iter();
    let turn = if form == Form::Duration {
        let other =
            near.flat_map(|d| [Some(by + d), by.checked_sub(d).filter(|d| *d > 0)]).flatten();
        let other = other.map(|t| span(lang, t)).collect();
        let wrong = wrongs(rng, &long, other);
        Turn { steps: before_steps(lang, to, from), ..Turn::plain(question, long.clone(), wrong) }
    } else {
        let (right, steps) = match form {
            Form::TimeAfter => (to, after_steps(lang, from, by)),
            _ => (from, before_steps(lang, to, by)),
        };
        let other = near.flat_map(|d| [Some(right + d), right.checked_sub(d)]).flatten();
        let other = other.filter(|t| *t < 1440).map(words::time).collect();
        let right = words::time(right);
        let wrong = wrongs(rng, &right, other);
        Turn { steps, ..Turn::plain(question, right, wrong) }
    };
    Some(Problem::new(Kind::Clock, form, lang, key, vec![], turn))
}

/// "1: Tuesday, 2: Wednesday."; on the way to a day, whether it is that one: "1: Tuesday no, 2: Wednesday yes."
fn walk(lang: Lang, days: &[usize], to: Option<usize>) -> String {
    let one = |day: &usize| {
        let name = words::day(lang, *day);
        to.map_or(name.to_owned(), |to| scan::judged(lang, name, *day == to))
    };
    numbered(lang, &days.iter().map(one).collect::<Vec<_>>())
}

/// Days of the week, some days on or back.
pub(super) fn days(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let form = rng.pick(&[Form::DayAfter, Form::DayBefore, Form::DayDistance]);
    let from = rng.below(7);
    let n = if form == Form::DayDistance { rng.between(1, 6) } else { rng.between(1, 14) };
    let key = key_of(lang, form, [from, n as usize]);
    if Split::of(key) != split {
        return None;
    }
    let step = if form == Form::DayBefore { 6 } else { 1 };
    let days: Vec<usize> = (1..=n as usize).map(|i| (from + i * step) % 7).collect();
    let to = *days.last()?;
    let many = match lang {
        Lang::En => format!("{n} day{}", if n == 1 { "" } else { "s" }),
        Lang::Zh => format!("{n}天"),
    };
    let slots = [('n', &*many), ('d', words::day(lang, from)), ('e', words::day(lang, to))];
    let question = wording::ask(rng, lang, split, form, &slots);
    let turn = if form == Form::DayDistance {
        let wrong = wrong_numbers(rng, n);
        Turn { also: vec![many.clone()], ..Turn::plain(question, n.to_string(), wrong) }
    } else {
        let other = (0..7).map(|d| words::day(lang, d).to_owned()).collect();
        let right = words::day(lang, to);
        let wrong = wrongs(rng, right, other);
        Turn::plain(question, right, wrong)
    };
    let steps = walk(lang, &days, (form == Form::DayDistance).then_some(to));
    let turn = Turn { steps, ..turn };
    Some(Problem::new(Kind::Days, form, lang, key, vec![], turn))
}

/// `items` with running numbers, as the steps of a walk through the days: "1: Monday, 2: Tuesday."
fn numbered(lang: Lang, items: &[String]) -> String {
    let colon = lang.pick(": ", "：");
    let all: Vec<String> = (1..).zip(items).map(|(i, s)| format!("{i}{colon}{s}")).collect();
    format!("{}{}", words::list(lang, &all), lang.pick(".", "。"))
}
