r"""Small texts that say the same in English and in Chinese: a table of phrases, and a page of prose.

The phrases serve where much text is needed whose content is equal in both languages. They were written for this course;
nothing is translated from elsewhere.
"""

import random

Pair = tuple[str, str]

PHRASES: dict[str, tuple[Pair, ...]] = {
    "who": (
        ("my grandmother", "我奶奶"), ("the new teacher", "新来的老师"), ("a young doctor", "一位年轻医生"),
        ("our neighbour", "我们的邻居"), ("the old fisherman", "老渔夫"), ("a little girl", "一个小女孩"),
        ("the bus driver", "公交司机"), ("his elder brother", "他哥哥"), ("the baker", "面包师"),
        ("a tall student", "一个高个子学生"), ("the painter", "画家"), ("my classmate", "我的同学"),
        ("the night guard", "守夜人"), ("a tired engineer", "一名疲惫的工程师"), ("her youngest son", "她的小儿子"),
    ),
    "where": (
        ("at the station", "在车站"), ("in the library", "在图书馆里"), ("by the river", "在河边"),
        ("on the mountain", "在山上"), ("at the market", "在市场上"), ("in the kitchen", "在厨房里"),
        ("under the bridge", "在桥下"), ("behind the school", "在学校后面"), ("in the garden", "在花园里"),
        ("on the beach", "在海滩上"), ("near the temple", "在寺庙附近"), ("in the hospital", "在医院里"),
        ("in a quiet village", "在一个安静的村子里"), ("outside the museum", "在博物馆外面"),
    ),
    "when": (
        ("this morning", "今天早上"), ("last night", "昨天晚上"), ("on Sunday", "星期天"),
        ("two weeks ago", "两个星期前"), ("in spring", "春天的时候"), ("after the storm", "暴风雨过后"),
        ("before breakfast", "早饭之前"), ("at midnight", "半夜里"), ("during the holiday", "放假期间"),
        ("on the first day of winter", "入冬的第一天"), ("a year later", "一年以后"), ("that afternoon", "那天下午"),
    ),
    "thing": (
        ("an old map", "一张旧地图"), ("a red umbrella", "一把红雨伞"), ("three letters", "三封信"),
        ("a broken clock", "一只坏了的钟"), ("a silver ring", "一枚银戒指"), ("a heavy box", "一个沉重的箱子"),
        ("a loaf of fresh bread", "一条新鲜的面包"), ("a paper kite", "一只纸风筝"), ("a wooden boat", "一条木船"),
        ("a blue notebook", "一本蓝色笔记本"), ("a bag of oranges", "一袋橘子"),
        ("a faded photograph", "一张褪色的照片"), ("a long novel", "一部长篇小说"), ("a bamboo flute", "一支竹笛"),
        ("two tickets", "两张票"),
    ),
    "did": (
        ("found", "找到了"), ("lost", "弄丢了"), ("bought", "买了"), ("sold", "卖掉了"), ("painted", "画了"),
        ("borrowed", "借走了"), ("brought back", "带回了"), ("hid", "藏起了"), ("gave away", "送出了"),
        ("noticed", "注意到"),
    ),
    "felt": (
        ("happy", "高兴"), ("surprised", "惊讶"), ("a little sad", "有点难过"), ("proud", "骄傲"), ("worried", "担心"),
        ("calm", "平静"), ("curious", "好奇"), ("lonely", "孤单"), ("relieved", "松了一口气"),
    ),
    "weather": (
        ("it rained heavily", "下起了大雨"), ("the wind was strong", "风很大"), ("the sky was clear", "天空晴朗"),
        ("thick fog covered the fields", "浓雾笼罩着田野"), ("the snow would not stop", "雪下个不停"),
        ("the moon was bright", "月光明亮"), ("it was too hot to sleep", "热得睡不着觉"),
        ("thunder rolled in the distance", "远处雷声隆隆"),
    ),
    "animal": (
        ("a black cat", "一只黑猫"), ("two sparrows", "两只麻雀"), ("an old horse", "一匹老马"),
        ("a green frog", "一只青蛙"),
        ("a white goose", "一只白鹅"), ("a curious fox", "一只好奇的狐狸"), ("a big carp", "一条大鲤鱼"),
        ("a friendly dog", "一条友好的狗"),
    ),
    "food": (
        ("noodle soup", "汤面"), ("steamed buns", "馒头"), ("fried rice", "炒饭"), ("dumplings", "饺子"),
        ("roast duck", "烤鸭"), ("green tea", "绿茶"), ("watermelon", "西瓜"), ("bean curd", "豆腐"),
        ("apple cake", "苹果蛋糕"),
    ),
    "number": (
        ("three", "三"), ("five", "五"), ("seven", "七"), ("nine", "九"), ("twelve", "十二"), ("twenty", "二十"),
        ("thirty", "三十"), ("a hundred", "一百"),
    ),
    "study": (
        ("mathematics", "数学"), ("history", "历史"), ("painting", "绘画"), ("medicine", "医学"), ("music", "音乐"),
        ("how to repair engines", "修理发动机"), ("foreign languages", "外语"), ("the stars", "天文"),
    ),
}  # fmt: skip

SENTENCES: tuple[Pair, ...] = (
    ("{when} {who} {did} {thing} {where}.", "{when}，{who}{where}{did}{thing}。"),
    ("{who} felt {felt} because {weather}.", "因为{weather}，{who}感到{felt}。"),
    ("{when} {weather}, and nobody went out.", "{when}，{weather}，谁也没有出门。"),
    ("{who} saw {animal} {where}.", "{who}{where}看见了{animal}。"),
    ("{who} has studied {study} for {number} years.", "{who}学{study}学了{number}年。"),
    ("{when} we ate {food} and drank a cup of {food}.", "{when}我们吃了{food}，还喝了一杯{food}。"),
    ("The price of {food} rose by {number} per cent.", "{food}的价格涨了百分之{number}。"),
    ("{who} did not notice {animal} asleep {where}.", "{who}没有注意到{animal}{where}睡着了。"),
    ("{where} there are {number} shops that sell {food}.", "{where}有{number}家卖{food}的商店。"),
    ("{who} wants to learn {study}, but there is no time.", "{who}想学{study}，可是没有时间。"),
    ("They talked about {study} until {weather}.", "他们一直谈论{study}，直到{weather}。"),
    ("If {weather}, {who} will stay at home.", "如果{weather}，{who}就待在家里。"),
    ("{who} gave {who} {thing}, and both were {felt}.", "{who}送给{who}{thing}，两个人都很{felt}。"),
    ("The letter says that {who} arrived {when}.", "信上说，{who}是{when}到的。"),
    ("{animal} ran away with the {food}.", "{animal}叼着{food}跑了。"),
    ("{who} asked why {thing} was {where}.", "{who}问，为什么{thing}会{where}。"),
)

# The same short page twice, on other things and in other words than the phrases above.
PAGE: Pair = (
    "A language model does not read letters. Before the first layer, every sentence is cut into pieces, and each piece "
    "becomes a number. Whoever chooses the pieces decides how long a text is for the machine, how much memory it needs "
    "and which languages are cheap. Frequent words stay whole; rare names fall apart into syllables, and a sign that "
    "was never seen is spelled out byte by byte. Nothing is lost that way, but a poem that fills half a page may "
    "become three times as long as its translation.\n"
    "An experienced editor once compared this with packing a suitcase. Folded shirts take little room, a violin takes "
    "a lot, and the size of the suitcase does not change. If most of your clothes are shirts, you build the suitcase "
    "for shirts. Only the musician notices.\n",
    "语言模型并不认识字母。在第一层之前，每个句子都被切成小块，每一块变成一个数字。谁来决定怎么切，谁就决定了一段文字对机器来说有多长、"
    "要占多少内存、哪些语言比较便宜。常见的词保持完整，罕见的人名被拆成音节，从未见过的符号则逐个字节拼写出来。这样什么也不会丢失，"
    "但是半页纸的一首诗，可能变得有译文的三倍那么长。\n"
    "一位经验丰富的编辑曾把这件事比作收拾行李。叠好的衬衫占不了多少空间，小提琴却很占地方，而行李箱的大小是固定的。"
    "如果你的衣服大多是衬衫，你就会按衬衫来设计箱子。只有音乐家才会察觉。\n",
)


def bilingual_sentences(count: int, rng: random.Random) -> list[Pair]:
    r"""Say random things in English and in Chinese.

    Args:
        count: how many sentences.
        rng: the source of chance; it is advanced.
    Returns: pairs (English, Chinese) of the same content.
    Lesson: 01.
    """
    return [_fill(rng.choice(SENTENCES), rng) for _ in range(count)]


def bilingual_documents(count: int, rng: random.Random, n_sentences: int = 8) -> list[Pair]:
    r"""Write documents of a few sentences each, in English and in Chinese.

    Args:
        count: how many documents.
        rng: the source of chance; it is advanced.
        n_sentences: in each.
    Returns: pairs (English, Chinese) of the same content.
    Lesson: 01.
    """
    documents = []
    for _ in range(count):
        english, chinese = zip(*bilingual_sentences(n_sentences, rng), strict=True)
        documents.append((" ".join(english), "".join(chinese)))
    return documents


def _fill(sentence: Pair, rng: random.Random) -> Pair:
    r"""Put the same phrases into the gaps of both languages; a kind of gap that comes twice gets two phrases."""
    english, chinese = sentence
    for kind, phrases in PHRASES.items():
        gap = "{" + kind + "}"
        for first, second in rng.sample(phrases, english.count(gap)):
            english, chinese = english.replace(gap, first, 1), chinese.replace(gap, second, 1)
    return english[0].upper() + english[1:], chinese
