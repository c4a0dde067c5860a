// Counts the words of a stream; prints what `sort | uniq -c` prints for one word a line.
#include "plug_filter.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

// The C locale's isspace; the process may have set another one.
constexpr bool is_space(uint8_t byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

constexpr uint8_t lower(uint8_t byte) {
    return byte >= 'A' && byte <= 'Z' ? static_cast<uint8_t>(byte + ('a' - 'A')) : byte;
}

// Most words fit one register; the library's hash spends longer on its call than on them.
struct word_hash {
    size_t operator()(std::string_view word) const noexcept {
        uint64_t hash = word.size();
        const char *at = word.data();
        size_t left = word.size();
        for (; left > 8; at += 8, left -= 8) {
            hash = mix(hash ^ load(at, 8));
        }
        return mix(hash ^ load(at, left));
    }

  private:
    static uint64_t load(const char *at, size_t len) {
        uint64_t word = 0;
        if (len == 8) {
            std::memcpy(&word, at, 8);
        } else {
            for (size_t i = 0; i < len; i++) {
                word = word << 8 | static_cast<uint8_t>(at[i]);
            }
        }
        return word;
    }

    static uint64_t mix(uint64_t hash) {
        hash *= 0x9e3779b97f4a7c15u;
        return hash ^ hash >> 32;
    }
};

class word_count {
  public:
    explicit word_count(const plug_params &) {
        counts_.max_load_factor(0.5f);
        // Not there in a host that has this plugin linked in.
        plug_str fold_case;
        fold_case_ = plug_param(plug_context(), "fold_case", &fold_case) && plug_text_eq(fold_case, "true");
    }

    void process(const uint8_t *input, size_t len, plug::output &) {
        if (fold_case_) {
            folded_.resize(len);
            std::transform(input, input + len, folded_.begin(), lower);
            input = folded_.data();
        }
        const uint8_t *at = input, *const end = input + len;
        if (!open_.empty()) {
            const uint8_t *stop = std::find_if(at, end, is_space);
            open_.append(at, stop);
            at = stop;
            if (at == end) {
                return;
            }
            count(open_);
            open_.clear();
        }
        for (;;) {
            at = std::find_if_not(at, end, is_space);
            const uint8_t *stop = std::find_if(at, end, is_space);
            if (stop == end) {
                open_.assign(at, end);
                return;
            }
            count({reinterpret_cast<const char *>(at), static_cast<size_t>(stop - at)});
            at = stop;
        }
    }

    void finish(plug::output &out) {
        if (!open_.empty()) {
            count(open_);
            open_.clear();
        }
        std::vector<std::pair<std::string_view, uint64_t>> sorted(counts_.begin(), counts_.end());
        std::sort(sorted.begin(), sorted.end());
        std::string text;
        for (const auto &[word, n] : sorted) {
            char head[32];
            int width = std::snprintf(head, sizeof head, "%7llu ", static_cast<unsigned long long>(n));
            text.append(head, static_cast<size_t>(width)).append(word).push_back('\n');
            if (text.size() > 32 * 1024) {
                out.write(text.data(), text.size());
                text.clear();
            }
        }
        out.write(text.data(), text.size());
    }

  private:
    // Keys are views into words_, whose strings never move; so a known word costs no copy.
    void count(std::string_view word) {
        auto found = counts_.find(word);
        if (found != counts_.end()) {
            ++found->second;
        } else {
            counts_.emplace(words_.emplace_back(word), 1);
        }
    }

    bool fold_case_;
    std::vector<uint8_t> folded_; // the block, with small letters alone
    std::string open_; // the word at the end of the last block, if it may go on
    std::deque<std::string> words_;
    std::unordered_map<std::string_view, uint64_t, word_hash> counts_;
};

constexpr plug_filter_v1 WORDCOUNT = plug::filter_table<word_count>();

int32_t init(const plug_host_context *ctx) {
    plug_log_debug(ctx, "wordcount is ready");
    return PLUG_OK;
}

void stop() {}

} // namespace

PLUG_INTERFACES(PLUG_FILTER_V1(WORDCOUNT));
PLUG_PARAM(fold_case, "bool", "false", "whether words that differ in the case of ASCII letters are the same");
PLUG_PLUGIN_WITH_INTERFACES("wordcount", "1.0.0", "counts the words of a stream",
                            "MIT OR Apache-2.0", init, stop);

// The number of words in len bytes. For plugins, too: reading imports it.
PLUG_EXPORT(uint64_t, count_words, (const uint8_t *text, size_t len)) {
    uint64_t n = 0;
    bool inside = false;
    for (size_t i = 0; i < len; i++) {
        bool space = is_space(text[i]);
        n += !space && !inside;
        inside = !space;
    }
    return n;
}
