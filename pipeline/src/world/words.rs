//! The words of the world: names, places, things, colours, foods, jobs, doings, days. A noun stands in
//! one row with its forms in both languages, so that neither can miss one. Few words, so that a small
//! model meets each of them thousands of times and the effort goes into what is done with them.

use super::rng::Rng;

/// A language of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lang {
    /// English.
    En,
    /// Chinese.
    Zh,
}

impl Lang {
    /// Both, in the order of files and tables.
    pub const ALL: [Lang; 2] = [Lang::En, Lang::Zh];

    /// Its name in files and flags.
    pub fn name(self) -> &'static str {
        self.pick("en", "zh")
    }

    /// The one of two values that belongs to this language.
    pub fn pick<T>(self, en: T, zh: T) -> T {
        match self {
            Lang::En => en,
            Lang::Zh => zh,
        }
    }
}

/// How many people there are; the first half are male.
pub const PEOPLE: usize = 40;

const NAMES_EN: [&str; PEOPLE] = [
    "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Paul", "Mark", "Adam", "Luke", "Peter", "David",
    "Henry", "Oscar", "Felix", "Hugo", "Ivan", "Karl", "Noah", "Eric", "Anna", "Lucy", "Mary",
    "Emma", "Kate", "Rose", "Ella", "Nina", "Sara", "Julia", "Alice", "Clara", "Helen", "Grace",
    "Laura", "Maya", "Ruth", "Vera", "Zoe", "Ida",
];

const NAMES_ZH: [&str; PEOPLE] = [
    "小明", "小刚", "小强", "小军", "小龙", "大伟", "志强", "建国", "文杰", "子轩", "浩然", "天宇",
    "国华", "家明", "俊杰", "立新", "明远", "学文", "永康", "海涛", "小红", "小丽", "小芳", "小梅",
    "小燕", "美玲", "秀英", "雅婷", "思雨", "佳怡", "晓雪", "静文", "春兰", "玉洁", "婷婷", "丹丹",
    "欣然", "诗涵", "慧敏", "月华",
];

/// A person, by number below `PEOPLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Person(pub usize);

impl Person {
    /// The name.
    pub fn name(self, lang: Lang) -> &'static str {
        lang.pick(NAMES_EN, NAMES_ZH)[self.0]
    }

    /// Whether the person is a woman or a girl.
    pub fn female(self) -> bool {
        self.0 >= PEOPLE / 2
    }

    /// he, she, 他, 她.
    pub fn he(self, lang: Lang) -> &'static str {
        lang.pick(["he", "she"], ["他", "她"])[self.female() as usize]
    }

    /// his, her, 他的, 她的.
    pub fn his(self, lang: Lang) -> &'static str {
        lang.pick(["his", "her"], ["他的", "她的"])[self.female() as usize]
    }

    /// him, her, 他, 她.
    pub fn him(self, lang: Lang) -> &'static str {
        lang.pick(["him", "her"], ["他", "她"])[self.female() as usize]
    }

    /// Tom's, 小明的.
    pub fn whose(self, lang: Lang) -> String {
        format!("{}{}", self.name(lang), lang.pick("'s", "的"))
    }
}

/// Places: English, Chinese.
pub const PLACES: [(&str, &str); 24] = [
    ("kitchen", "厨房"),
    ("garden", "花园"),
    ("park", "公园"),
    ("school", "学校"),
    ("library", "图书馆"),
    ("market", "市场"),
    ("station", "车站"),
    ("museum", "博物馆"),
    ("office", "办公室"),
    ("bakery", "面包店"),
    ("hospital", "医院"),
    ("bathroom", "浴室"),
    ("bedroom", "卧室"),
    ("hall", "大厅"),
    ("cinema", "电影院"),
    ("shop", "商店"),
    ("barn", "谷仓"),
    ("zoo", "动物园"),
    ("theatre", "剧院"),
    ("bank", "银行"),
    ("hotel", "酒店"),
    ("garage", "车库"),
    ("forest", "森林"),
    ("tower", "塔楼"),
];

/// A countable noun with what grammar asks of it.
#[derive(Debug)]
pub struct Noun {
    /// English, one of it.
    pub one: &'static str,
    /// English, several.
    pub many: &'static str,
    /// Chinese.
    pub zh: &'static str,
    /// The Chinese measure word.
    pub measure: &'static str,
}

const fn noun(
    one: &'static str,
    many: &'static str,
    zh: &'static str,
    measure: &'static str,
) -> Noun {
    Noun { one, many, zh, measure }
}

/// Things that people have.
pub const THINGS: [Noun; 32] = [
    noun("ball", "balls", "球", "个"),
    noun("book", "books", "书", "本"),
    noun("cup", "cups", "杯子", "个"),
    noun("hat", "hats", "帽子", "顶"),
    noun("coat", "coats", "外套", "件"),
    noun("bag", "bags", "书包", "个"),
    noun("pen", "pens", "钢笔", "支"),
    noun("key", "keys", "钥匙", "把"),
    noun("lamp", "lamps", "台灯", "盏"),
    noun("chair", "chairs", "椅子", "把"),
    noun("box", "boxes", "盒子", "个"),
    noun("kite", "kites", "风筝", "只"),
    noun("umbrella", "umbrellas", "雨伞", "把"),
    noun("scarf", "scarves", "围巾", "条"),
    noun("bell", "bells", "铃铛", "个"),
    noun("bottle", "bottles", "瓶子", "个"),
    noun("clock", "clocks", "闹钟", "个"),
    noun("drum", "drums", "鼓", "面"),
    noun("flag", "flags", "旗子", "面"),
    noun("map", "maps", "地图", "张"),
    noun("card", "cards", "卡片", "张"),
    noun("plate", "plates", "盘子", "个"),
    noun("spoon", "spoons", "勺子", "把"),
    noun("shirt", "shirts", "衬衫", "件"),
    noun("ring", "rings", "戒指", "枚"),
    noun("rope", "ropes", "绳子", "根"),
    noun("bike", "bikes", "自行车", "辆"),
    noun("candle", "candles", "蜡烛", "根"),
    noun("basket", "baskets", "篮子", "个"),
    noun("mirror", "mirrors", "镜子", "面"),
    noun("guitar", "guitars", "吉他", "把"),
    noun("engine", "engines", "发动机", "台"),
];

/// Foods that are counted.
pub const FOODS: [Noun; 18] = [
    noun("apple", "apples", "苹果", "个"),
    noun("pear", "pears", "梨", "个"),
    noun("plum", "plums", "李子", "个"),
    noun("banana", "bananas", "香蕉", "根"),
    noun("peach", "peaches", "桃子", "个"),
    noun("cherry", "cherries", "樱桃", "颗"),
    noun("egg", "eggs", "鸡蛋", "个"),
    noun("cake", "cakes", "蛋糕", "块"),
    noun("carrot", "carrots", "胡萝卜", "根"),
    noun("tomato", "tomatoes", "西红柿", "个"),
    noun("lemon", "lemons", "柠檬", "个"),
    noun("grape", "grapes", "葡萄", "颗"),
    noun("melon", "melons", "西瓜", "个"),
    noun("nut", "nuts", "坚果", "颗"),
    noun("potato", "potatoes", "土豆", "个"),
    noun("onion", "onions", "洋葱", "个"),
    noun("mango", "mangoes", "芒果", "个"),
    noun("biscuit", "biscuits", "饼干", "块"),
];

/// Colours: English, Chinese.
pub const COLOURS: [(&str, &str); 12] = [
    ("red", "红色"),
    ("blue", "蓝色"),
    ("green", "绿色"),
    ("yellow", "黄色"),
    ("black", "黑色"),
    ("white", "白色"),
    ("brown", "棕色"),
    ("pink", "粉色"),
    ("purple", "紫色"),
    ("grey", "灰色"),
    ("orange", "橙色"),
    ("silver", "银色"),
];

/// Jobs: English, Chinese.
pub const JOBS: [(&str, &str); 20] = [
    ("teacher", "老师"),
    ("doctor", "医生"),
    ("baker", "面包师"),
    ("driver", "司机"),
    ("farmer", "农民"),
    ("nurse", "护士"),
    ("painter", "画家"),
    ("singer", "歌手"),
    ("writer", "作家"),
    ("cook", "厨师"),
    ("pilot", "飞行员"),
    ("sailor", "水手"),
    ("judge", "法官"),
    ("actor", "演员"),
    ("tailor", "裁缝"),
    ("waiter", "服务员"),
    ("dentist", "牙医"),
    ("artist", "艺术家"),
    ("lawyer", "律师"),
    ("engineer", "工程师"),
];

/// Doings: English bare form, English third person, Chinese.
pub const DOINGS: [(&str, &str, &str); 14] = [
    ("swim", "swims", "游泳"),
    ("read", "reads", "读书"),
    ("sing", "sings", "唱歌"),
    ("dance", "dances", "跳舞"),
    ("paint", "paints", "画画"),
    ("run", "runs", "跑步"),
    ("cook", "cooks", "做饭"),
    ("play chess", "plays chess", "下棋"),
    ("study", "studies", "学习"),
    ("go fishing", "goes fishing", "钓鱼"),
    ("ride a horse", "rides a horse", "骑马"),
    ("water the flowers", "waters the flowers", "浇花"),
    ("wash the car", "washes the car", "洗车"),
    ("climb the hill", "climbs the hill", "爬山"),
];

/// Days of the week: English, Chinese.
pub const DAYS: [(&str, &str); 7] = [
    ("Monday", "星期一"),
    ("Tuesday", "星期二"),
    ("Wednesday", "星期三"),
    ("Thursday", "星期四"),
    ("Friday", "星期五"),
    ("Saturday", "星期六"),
    ("Sunday", "星期日"),
];

/// The Chinese words of two characters and more. Chinese has no spaces, so a vocabulary learnt from text
/// would join them to what stands beside them, differently each time: a tokenizer is told of them.
pub fn chinese() -> Vec<&'static str> {
    let nouns = THINGS.iter().chain(&FOODS).map(|n| n.zh);
    let pairs = PLACES.iter().chain(&COLOURS).chain(&JOBS).chain(&DAYS).map(|w| w.1);
    let kin = super::facts::KIN.iter().map(|w| w.1);
    let names = NAMES_ZH.into_iter().chain(DOINGS.iter().map(|w| w.2));
    let all = names.chain(nouns).chain(pairs).chain(kin);
    all.filter(|word| word.chars().count() > 1).collect()
}

/// "a" or "an" and the word.
pub fn article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}

/// A place's name without preposition: kitchen, 厨房.
pub fn place(lang: Lang, i: usize) -> &'static str {
    lang.pick(PLACES[i].0, PLACES[i].1)
}

/// In the kitchen, 在厨房.
pub fn in_place(lang: Lang, i: usize) -> String {
    lang.pick(format!("in the {}", PLACES[i].0), format!("在{}", PLACES[i].1))
}

/// To the kitchen, 厨房 (after 去 or 到).
pub fn to_place(lang: Lang, i: usize) -> String {
    lang.pick(format!("to the {}", PLACES[i].0), PLACES[i].1.to_owned())
}

/// A colour's name.
pub fn colour(lang: Lang, i: usize) -> &'static str {
    lang.pick(COLOURS[i].0, COLOURS[i].1)
}

/// A day's name.
pub fn day(lang: Lang, i: usize) -> &'static str {
    lang.pick(DAYS[i % 7].0, DAYS[i % 7].1)
}

impl Noun {
    /// The bare noun: ball, 球.
    pub fn bare(&self, lang: Lang) -> &'static str {
        lang.pick(self.one, self.zh)
    }

    /// One of it: a ball, 一个球.
    pub fn a(&self, lang: Lang) -> String {
        lang.pick(article(self.one), format!("一{}{}", self.measure, self.zh))
    }

    /// One of a colour: a red ball, 一个红色的球.
    pub fn a_coloured(&self, lang: Lang, c: usize) -> String {
        match lang {
            Lang::En => article(&format!("{} {}", COLOURS[c].0, self.one)),
            Lang::Zh => format!("一{}{}的{}", self.measure, COLOURS[c].1, self.zh),
        }
    }

    /// A known one of a colour: the red ball, 红色的球.
    pub fn the_coloured(&self, lang: Lang, c: usize) -> String {
        match lang {
            Lang::En => format!("the {} {}", COLOURS[c].0, self.one),
            Lang::Zh => format!("{}的{}", COLOURS[c].1, self.zh),
        }
    }

    /// `n` of it: 1 ball, 3 balls, 3个球.
    pub fn count(&self, lang: Lang, n: u32) -> String {
        match lang {
            Lang::En if n == 1 => format!("1 {}", self.one),
            Lang::En => format!("{n} {}", self.many),
            Lang::Zh => format!("{n}{}{}", self.measure, self.zh),
        }
    }

    /// All of the kind, as one likes them: apples, 苹果.
    pub fn kind(&self, lang: Lang) -> &'static str {
        lang.pick(self.many, self.zh)
    }
}

/// Joins a list as a sentence does: "a, b and c", "a、b和c".
pub fn and(lang: Lang, items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => {
            format!("{}{}{last}", first.join(lang.pick(", ", "、")), lang.pick(" and ", "和"))
        }
    }
}

/// Joins a list as an answer does: "a, b, c", "a、b、c".
pub fn list<S: AsRef<str>>(lang: Lang, items: &[S]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    items.join(lang.pick(", ", "、"))
}

/// Any word that names something: a person, a place, a thing, a colour, a food, a day.
pub fn random(rng: &mut Rng, lang: Lang) -> &'static str {
    match rng.below(6) {
        0 => Person(rng.below(PEOPLE)).name(lang),
        1 => place(lang, rng.below(PLACES.len())),
        2 => THINGS[rng.below(THINGS.len())].bare(lang),
        3 => colour(lang, rng.below(COLOURS.len())),
        4 => FOODS[rng.below(FOODS.len())].bare(lang),
        _ => day(lang, rng.below(7)),
    }
}

/// A time of day from minutes after midnight: 7:05.
pub fn time(minutes: u32) -> String {
    format!("{}:{:02}", minutes / 60, minutes % 60)
}
