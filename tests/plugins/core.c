/* A private library: two of them have the same name and give different answers. */
int core_answer(void);
int core_answer(void) { return ANSWER; }
